"""The laws of denoisers and transforms, as functions of a situation."""
