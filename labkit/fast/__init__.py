"""The fastest path of one stream in one call: decoder, drafts, prefix cache and figures.

`labkit.fastest` is `session.fastest`. `chosen` takes the decoder, `costs` keeps what rows of a pass
cost here, `stream` gives the text, `result` the figures, and `terminal` is `labkit try`.
"""
