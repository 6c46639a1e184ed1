"""Networks whose features compare images: fixed, with weights of others.

A module maps float32 images [batch, height, width, 3], scaled as its file says, to a
dict of named outputs. Its parameters are called like the entries of the published
weights, so that `weights.published.features` knows their table.
"""
