import pytest
import torch

from engine.diffusion.guidance import guide, passes, weights


def predictions(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 4, 2, 3, 3, generator=generator) for _ in range(count)]


def test_one_term_is_classifier_free_guidance():
    with_text, without = predictions(2)
    guided = guide([with_text, without], [5.0])
    torch.testing.assert_close(guided, without + 5.0 * (with_text - without), rtol=0, atol=1e-5)


def test_two_terms_are_the_guidance_of_svi_talk():
    """v(∅,∅) + g_text [v(c,a) − v(∅,a)] + g_audio [v(∅,a) − v(∅,∅)]."""
    both, audio_only, neither = predictions(3)
    expected = neither + 2.0 * (both - audio_only) + 5.0 * (audio_only - neither)
    guided = guide([both, audio_only, neither], [2.0, 5.0])
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scales", [[1.5], [2.0, 5.0], [0.0, 3.0], [3.0, 0.5, 7.0], [1.0, 2.0], []])
def test_any_number_of_terms_follows_the_formula(scales):
    v = predictions(len(scales) + 1)
    expected = v[-1] + sum(s * (v[i] - v[i + 1]) for i, s in enumerate(scales)) if scales else v[0]
    torch.testing.assert_close(guide([v[i] for i in passes(scales)], scales), expected, rtol=0, atol=1e-5)
    assert sum(weights(scales)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("scales", "needed"),
    [([5.0], [0, 1]), ([1.0], [0]), ([0.0], [1]), ([2.0, 5.0], [0, 1, 2]), ([1.0, 1.0], [0]), ([3.0, 3.0], [0, 2])],
)
def test_a_pass_that_cancels_out_is_not_run(scales, needed):
    ran = []

    def predict(branch):
        ran.append(branch)
        return torch.ones(1)

    guide(map(predict, passes(scales)), scales)
    assert ran == needed == passes(scales)
