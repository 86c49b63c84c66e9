"""The configuration file that `gnelint init` writes: everything that can be said, in comments, with what holds now."""

TEMPLATE = """\
# What `gnelint` is told about the models below this folder. The command line wins over it.
# Every line that begins with "# " and a key shows what holds without it, or an example.

# Which rules run, by id, prefix or name; `gnelint rules` lists them.
# select = ["ALL"]
# extend-select = []
# ignore = []

# The least severity that makes the exit code 1: error, warning, info or never.
# fail-on = "error"

# Normalise by the batch ("train") or by running statistics ("eval").
# mode = "train"

# Judge weights as fresh ("init"), as trained, or as they look ("auto").
# stage = "auto"

# What the network's output is put into; softmax, sigmoid and the like in front of it are judged by it.
# loss = "cross_entropy"

# Run rules that are not yet stable as well.
# preview = false

# More rule files, or directories of them, below this folder.
# rules = ["our_rules/"]

# Findings that are known and do not count: gnelint check --write-baseline writes the file.
# baseline = "gnelint-baseline.json"

# Where answers for unchanged files are kept.
# cache-dir = ".gnelint_cache"

# Values for parameters of rules; `gnelint rule GNE101` lists those of one.
# [params.GNE101]
# tolerance = 0.25

# Rules that do not run on some targets, whatever selects them.
# [per-target-ignores]
# "legacy/*.onnx" = ["GNE1"]

# What else holds for some targets; later tables win.
# [[overrides]]
# targets = ["pretrained/**/*.onnx"]
# select = ["GNE5"]
# stage = "trained"
# fail-on = "never"

# Findings that somebody has looked at and accepts, by rule and by the name of a node or block.
# [[suppress]]
# rules = ["GNE101"]
# nodes = ["layers.0.*"]
# reason = "the stem is rescaled by the trainer"
"""
