"""Item embeddings: encoders, one store per dataset, strategies that fuse modalities, and what is learned from them.

``items`` reads what is encoded, ``encoders`` turns it into vectors, ``encode`` does so in batches that can be
resumed, ``store`` keeps the vectors, ``strategies`` fuses them into the item table.
"""
