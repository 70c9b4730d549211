"""One call of each family of transformers in `tests.support.generic`: `family(draw, batch)` gives its arguments."""

import torch


class Draw:
    """Random tensors from a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)


def times(batch: int, most: float = 1000.0) -> torch.Tensor:
    return torch.linspace(0.9, 0.4, batch) * most


def mask(batch: int, tokens: int) -> torch.Tensor:
    """All tokens of the first sample, one less of each that follows."""
    return (torch.arange(tokens)[None] < tokens - torch.arange(batch)[:, None]).long()


def grid(rows: int, columns: int, axes: int = 3) -> torch.Tensor:
    ids = torch.zeros(rows, columns, axes)
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)[None]
    return ids.reshape(-1, axes)


def sd3(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 4, 8, 8),
        "encoder_hidden_states": draw(batch, 7, 32),
        "pooled_projections": draw(batch, 16),
        "timestep": times(batch),
    }


def pixart(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 4, 8, 8),
        "encoder_hidden_states": draw(batch, 7, 32),
        "encoder_attention_mask": mask(batch, 7),
        "timestep": times(batch),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def sana(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 4, 8, 8),
        "encoder_hidden_states": draw(batch, 7, 8),
        "encoder_attention_mask": mask(batch, 7),
        "timestep": times(batch),
    }


def flux(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 16, 4),
        "encoder_hidden_states": draw(batch, 7, 32),
        "pooled_projections": draw(batch, 32),
        "timestep": times(batch, 1.0),
        "img_ids": grid(4, 4),
        "txt_ids": torch.zeros(7, 3),
        "guidance": torch.full((batch,), 3.5),
    }


def flux_plain(draw: Draw, batch: int) -> dict:
    call = flux(draw, batch)
    del call["pooled_projections"], call["guidance"]
    return call


def flux2(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 16, 4),
        "encoder_hidden_states": draw(batch, 7, 32),
        "timestep": times(batch, 1.0),
        "img_ids": grid(4, 4, 4),
        "txt_ids": torch.zeros(7, 4),
        "guidance": torch.full((batch,), 4.0),
    }


def chroma(draw: Draw, batch: int) -> dict:
    call = flux_plain(draw, batch)
    whole = torch.cat([mask(batch, 7), torch.ones(batch, 16)], dim=1).bool()
    return {**call, "attention_mask": whole}


def auraflow(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 4, 8, 8),
        "encoder_hidden_states": draw(batch, 7, 32),
        "timestep": times(batch, 1.0),
    }


def lumina2(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 4, 8, 8),
        "encoder_hidden_states": draw(batch, 7, 32),
        "encoder_attention_mask": mask(batch, 7).bool(),
        "timestep": times(batch, 1.0),
    }


def hidream(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 4, 8, 8),
        "encoder_hidden_states_t5": draw(batch, 5, 8),
        "encoder_hidden_states_llama3": draw(4, batch, 5, 8),
        "pooled_embeds": draw(batch, 8),
        "timesteps": times(batch),
    }


def cogview4(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 4, 8, 8),
        "encoder_hidden_states": draw(batch, 7, 16),
        "original_size": torch.tensor([[64.0, 64.0]] * batch),
        "target_size": torch.tensor([[64.0, 64.0]] * batch),
        "crop_coords": torch.zeros(batch, 2),
        "timestep": times(batch),
    }


def cogvideox(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 2, 4, 8, 8),
        "encoder_hidden_states": draw(batch, 7, 16),
        "timestep": times(batch),
    }


def ltx(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 2 * 4 * 4, 4),
        "encoder_hidden_states": draw(batch, 7, 16),
        "encoder_attention_mask": mask(batch, 7).bool(),
        "timestep": times(batch),
        "num_frames": 2,
        "height": 4,
        "width": 4,
    }


def mochi(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 4, 2, 8, 8),
        "encoder_hidden_states": draw(batch, 7, 16),
        "encoder_attention_mask": mask(batch, 7).bool(),
        "timestep": times(batch),
    }


def wan(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 4, 2, 8, 8),
        "encoder_hidden_states": draw(batch, 7, 16),
        "timestep": times(batch).round(),
    }


def qwen(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 16, 16),
        "encoder_hidden_states": draw(batch, 7, 32),
        "encoder_hidden_states_mask": mask(batch, 7),
        "timestep": times(batch, 1.0),
        "img_shapes": [[(1, 4, 4)]] * batch,
    }


def hunyuan(draw: Draw, batch: int) -> dict:
    return {
        "hidden_states": draw(batch, 4, 2, 8, 8),
        "encoder_hidden_states": draw(batch, 7, 32),
        "encoder_attention_mask": mask(batch, 7),
        "pooled_projections": draw(batch, 32),
        "timestep": times(batch).round(),
        "guidance": torch.full((batch,), 6016.0),
    }


def z_image(draw: Draw, batch: int) -> dict:
    return {
        "x": [draw(16, 1, 8, 8) for _ in range(batch)],
        "t": 1.0 - times(batch, 1.0),
        "cap_feats": [draw(5 + 3 * sample, 32) for sample in range(batch)],
    }
