"""Measurements of symbolic music as pure functions: no model, no file format, hand-computable.

    notes          the notes of a piece as arrays, from token ids, a MIDI file or a list of notes
    descriptors    figures of one piece: pitch-class entropy, scale and groove consistency, polyphony, density
    copying        how much of a piece stands in the training set: longest copied span, n-gram novelty
    distributions  two sets of pieces: overlapping area of a figure's distributions, Fréchet distance of an embedding
    overfitting    cross-correlation of piano rolls with the training set
    latents        use of a latent code: KL, active dimensions

`spaces/metrics/` offers them as modules of the library `evaluate`.
"""
