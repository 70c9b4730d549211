"""Many ranks: meshes, sharded denoisers, launching."""
