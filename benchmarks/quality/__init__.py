"""Better pictures for the same work: every cache on one trained model, each with the best setting found.

    python -m benchmarks.quality            # prints the tables
    python -m benchmarks.quality --write    # and puts them into docs/quality.md, the numbers into quality.json
    python -m benchmarks.quality --quick    # the same with a handful of pictures and trials

The model is the checkpoint in the package: 64 x 64 emoji, 28 steps, 16 text tokens, fp32. All contestants
get the same prompts, starting noise and noise levels, and equally many trials to find their setting on the same
tuning prompts.
What was run is kept in a folder (`--work`), so that a run that is interrupted goes on where it stopped.
With `--emoji`, the unpacked npm package that the checkpoint was trained with (see training/README.md), the tables say
of how many pictures the emoji is recognised.
"""
