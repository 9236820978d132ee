"""Our variants and other inference engines beside each other, and the workers that time them.

`pins.yaml` names the engines and their exact versions, `install` makes their environments,
`variants` lists what can be run, `client` starts a variant as a process that stays up, and
`worker` with `drivers/` is what runs inside that process. `costs` says what a variant's passes must
read and compute, and `run` compares variants, each held against that. `many` compares them where
they answer several prompts at once.
"""
