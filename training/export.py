"""Write the trained parts as a FluxPipeline folder.

Run ``python -m training.export --work DIR --out models/emoji``.
"""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from training import autoencoder, command, denoiser, latents, model, text
from training.budget import checkpoint


def pipeline(work: Path) -> FluxPipeline:
    """The averaged weights of the last checkpoint as a pipeline."""
    found = checkpoint(work / latents.CACHE)
    vae = autoencoder.build()
    vae.load_state_dict(checkpoint(work / autoencoder.CHECKPOINT)["model"])
    vae.register_to_config(scaling_factor=found["scale"].item(), shift_factor=found["shift"].item())
    trained = model.Denoiser()
    trained.load_state_dict(checkpoint(work / denoiser.CHECKPOINT)["average"])
    return FluxPipeline(
        scheduler=scheduler(),
        vae=vae.eval(),
        text_encoder=trained.clip.eval(),
        tokenizer=text.clip_tokenizer(),
        text_encoder_2=trained.t5.eval(),
        tokenizer_2=text.t5_tokenizer(),
        transformer=trained.transformer.eval(),
    )


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """With the settings of FLUX.1-dev."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def main() -> None:
    """Read the command line and export.

    The transformer and the autoencoder are stored in half precision, which diffusers
    loads as single. The text encoders keep theirs: transformers loads what is stored.
    """
    options = command.read(__doc__, "work", "out")
    exported = pipeline(options.work)
    exported.transformer.to(torch.float16)
    exported.vae.to(torch.float16)
    exported.save_pretrained(options.out, safe_serialization=True)


if __name__ == "__main__":
    main()
