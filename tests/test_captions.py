import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from score_sde import guidance
from score_sde.conditions import captions
from score_sde.networks import TextUNet, from_linen
from score_sde.types import UserError


def spelt(sequence):
    return " ".join(captions.WORDS[i] for i in np.asarray(sequence) if i >= 0)


def test_a_caption_is_its_words():
    sequence = captions.tokens("A handwritten seven")
    assert spelt(sequence) == "a handwritten seven"
    assert sequence.shape == (captions.LENGTH,)
    assert spelt(captions.caption_of(jnp.asarray([7]))[0]) == "a handwritten seven"
    assert (captions.caption_of(jnp.asarray([3, -1]))[1] == -1).all()


def test_drawn_captions_name_their_digit_in_every_way():
    labels = jnp.arange(500) % 10
    drawn = captions.random_captions(jr.key(0), labels)
    texts = [spelt(sequence) for sequence in drawn]
    for label, text in zip(labels, texts, strict=True):
        assert captions.NUMBERS[int(label)] in text.split()
    ways = {
        text.replace(captions.NUMBERS[int(label)], "{}")
        for label, text in zip(labels, texts, strict=True)
    }
    assert ways == set(captions.TEMPLATES)
    np.testing.assert_array_equal(
        captions.random_captions(jr.key(0), labels[:7]), drawn[:7]
    )


def test_what_cannot_be_read_is_named():
    with pytest.raises(
        UserError, match=r"unknown word 'cat'; choose from \['a', 'the'"
    ):
        captions.tokens("a handwritten cat")
    with pytest.raises(UserError, match="has 7 words; at most 6 are read"):
        captions.tokens("a a a a a a seven")


def test_the_network_reads_words_and_their_order(key):
    """And no caption at all, which is what guidance and dropout leave."""
    module = TextUNet(
        num_words=len(captions.WORDS),
        num_classes=10,
        text_width=8,
        channels=8,
        multipliers=(1,),
        blocks_per_level=1,
        attention_resolutions=(4,),
    )
    captioned = ["a seven", "seven a", "a three"]
    words = jnp.stack([*map(captions.tokens, captioned), captions.TABLE[0, -1]])
    network = from_linen(module, (4, 4, 1), {"words": words[:1]})
    random = np.random.RandomState(2)
    params = jax.tree.map(
        lambda p: jnp.asarray(0.3 * random.normal(size=p.shape), p.dtype),
        jax.eval_shape(network.init, key),
    )
    x, noise = jnp.ones((4, 4, 4, 1), jnp.float32), jnp.zeros(4, jnp.float32)
    apply = jax.jit(network.apply)
    out = np.asarray(apply(params, x, noise, {"words": words}))
    for i in range(4):
        for j in range(i):
            assert np.abs(out[i] - out[j]).max() > 1e-3
    null = guidance.null_condition({"words": words})
    np.testing.assert_allclose(apply(params, x, noise, null)[0], out[3], rtol=1e-5)
