"""Training. optax and orbax live in this folder."""
