"""The quick search and its parts: named defaults, the tied start, the weight of GEOCROSS within
eps, and searches that end as soon as a picture is found.
"""

import pytest
import torch
from conftest import one_file

from cli.errors import UserError
from loss import LossBuilder, geocross
from PULSE import PULSE
from search_settings import ADDED, SEARCHES, Settings
from SphericalOptimizer import row_norm

pytestmark = pytest.mark.usefixtures("one_thread")

EASY = 6e-3  # eps within which these searches come, but not at once


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> PULSE:
    folder = tmp_path_factory.mktemp("quick")
    return PULSE(one_file(folder / "generator.pt"), "cpu", folder / "cache", progress=False)


def lr_pictures(number: int, side: int = 4) -> torch.Tensor:
    return torch.rand(number, 3, side, side, generator=torch.Generator().manual_seed(5))


def finish(search):
    """The last pair, and L2 and total of every iterate, (T, B)."""
    rows = []
    search.on_step = lambda step, figures: rows.append((figures["L2"], figures["total"]))
    *_, pair = search
    return pair, *(torch.stack(column) for column in zip(*rows, strict=True))


def drawn(model, seeds: list[int]) -> torch.Tensor:
    """LR of pictures that the generator can draw: those of the starting points of these seeds."""
    return finish(model(lr_pictures(len(seeds)), seed=seeds, steps=1))[0][1]


# ------------------------------------------------------------ settings


def test_the_papers_settings_are_the_published_ones():
    settings = Settings()
    assert settings == Settings(
        loss_str="100*L2+0.05*GEOCROSS", opt_name="adam", learning_rate=0.4, start="free"
    )
    assert settings.lr_schedule == "linear1cycledrop" and settings.geocross_within is None
    assert {name: getattr(settings, name) for name in ADDED} == ADDED


def test_a_named_search_sets_defaults_and_nothing_that_was_given():
    quick = Settings(search="quick")
    assert {name: getattr(quick, name) for name in SEARCHES["quick"]} == SEARCHES["quick"]
    given = Settings(search="quick", opt_name="adam", learning_rate=0.4)
    assert (given.opt_name, given.learning_rate) == ("adam", 0.4)
    assert given.start == "gathered+regression"
    assert SEARCHES["quick"].keys() == SEARCHES["paper"].keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search": "fast"}, "search 'fast' is unknown: use paper, quick"),
        ({"start": "warm"}, "start 'warm' is unknown"),
        ({"until": "dawn"}, "until 'dawn' is unknown"),
        ({"polish": -1}, "polish must be"),
        ({"geocross_within": float("nan")}, "geocross_within must be"),
    ],
)
def test_what_is_no_setting_is_one_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        Settings(**changes).check()


def test_python_takes_the_named_search_like_any_setting(model):
    quick = model(lr_pictures(1), seed=0, steps=5, search="quick")
    assert quick.settings == Settings(search="quick", steps=5)
    whole = model(lr_pictures(1), seed=0, settings=Settings(search="quick"), steps=5)
    assert whole.settings == quick.settings
    (first, _), l2, _ = finish(quick)
    (again, _), same, _ = finish(whole)
    assert torch.equal(first, again) and torch.equal(l2, same)


def test_the_named_search_of_settings_that_are_given_cannot_be_changed(model):
    """They have been filled in already."""
    with pytest.raises(UserError, match="settings have search 'paper'"):
        model(lr_pictures(1), settings=Settings(steps=5), search="quick")
    assert model(lr_pictures(1), settings=Settings(steps=5), search="paper").settings.steps == 5


# ------------------------------------------------------------ its parts


def test_a_tied_start_is_one_latent_whose_layers_go_their_ways(model):
    search = model(lr_pictures(2), seed=[3, 4], steps=4, start="tied")
    assert search.v.shape == (2, 6, 16)
    assert (search.v == search.v[:, :1]).all() and not torch.equal(search.v[0], search.v[1])
    finish(search)
    assert not (search.v == search.v[:, :1]).all()


def test_a_gathered_start_is_a_latent_for_each_layer_that_geocross_has_pulled_together(model):
    LR = lr_pictures(2)
    starts = {
        start: model(LR, seed=[3, 4], steps=1, start=start).v.detach()
        for start in ("free", "gathered")
    }
    w = {start: model.generator.w_of(v) for start, v in starts.items()}
    free, found = geocross(w["free"]), geocross(w["gathered"])
    assert (found < 0.1 * free).all() and (found > 0).all()
    assert torch.allclose(row_norm(starts["gathered"]), row_norm(starts["free"]))
    assert geocross(w["gathered"][:, 0][None]) > 20  # two seeds are two people still
    assert w["gathered"].norm(dim=2).mean() > 1.1 * w["free"].norm(dim=2).mean()
    (alone,) = model(LR[1], seed=4, steps=1, start="gathered").v
    assert (alone - starts["gathered"][1]).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("start", "corrected"), [("tied", "regression"), ("gathered", "gathered+regression")]
)
def test_regression_corrects_its_own_start_and_brings_it_closer_to_the_lr(model, start, corrected):
    LR = drawn(model, [9, 10, 11, 12])
    before, after = (model(LR, seed=0, steps=1, start=each) for each in (start, corrected))
    fit = model.fit_for(after.settings, LR.shape[-1])
    expected = fit.start(
        model.generator, after.synthesize, LR, before.v.detach(), [m.detach() for m in after.noise]
    )
    assert torch.allclose(after.v.detach(), expected, atol=1e-4)
    l2 = [finish(search)[1].mean() for search in (before, after)]
    assert l2[1] < 0.95 * l2[0]


def test_of_one_latent_for_all_layers_there_is_nothing_to_gather(model):
    searches = [
        model(lr_pictures(1), seed=3, steps=1, start=start, tile_latent=True)
        for start in ("tied", "gathered")
    ]
    assert torch.equal(*(search.v for search in searches))


def test_the_quick_search_comes_closer_in_as_many_steps(model):
    LR = drawn(model, [9, 10, 11, 12])
    ends = {}
    for name in SEARCHES:
        search = model(LR, seed=[0, 1, 2, 3], steps=30, search=name, eps=1e-6)
        ends[name] = finish(search)[1].amin(0).mean().item()
    assert ends["quick"] < 0.5 * ends["paper"]


@pytest.mark.parametrize("more", [{"tile_latent": True}, {"noise_type": "zero"}])
def test_the_quick_search_of_other_shapes(model, more):
    search = model(lr_pictures(2, 8), seed=0, steps=12, search="quick", **more)
    _, l2, _ = finish(search)
    assert l2.isfinite().all() and (l2.amin(0) < l2[0]).all()
    assert len(search.latents[0].w) == (1 if "tile_latent" in more else 6)


def test_within_eps_geocross_has_its_own_weight_in_what_is_descended_on_alone():
    random = torch.Generator().manual_seed(1)
    HR = torch.rand(2, 3, 16, 16, generator=random)
    w = torch.randn(2, 6, 16, generator=random)
    plain, terms = LossBuilder(torch.rand(2, 3, 4, 4), "100*L2+0.01*GEOCROSS", 1.0)(w, HR)
    assert torch.equal(terms["descent"], plain)
    ref_im = terms["LR"].clone()
    ref_im[1] += 0.5  # outside eps
    total, terms = LossBuilder(ref_im, "100*L2+0.01*GEOCROSS", 0.01, geocross_within=0.3)(w, HR)
    assert torch.allclose(total, 100 * terms["mse"].clamp(min=0.01) + 0.01 * terms["GEOCROSS"])
    assert terms["descent"][0].item() == pytest.approx(1 + 0.3 * terms["GEOCROSS"][0].item())
    assert terms["descent"][1] == total[1]


# ------------------------------------------------------------ until eps


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("polish", [0.0, 0.2])
def test_a_search_ends_at_its_first_iterate_within_eps_and_the_share_to_polish(
    model, search, polish
):
    options = {"steps": 40, "search": search, "eps": EASY}
    for i, LR in enumerate(drawn(model, [9, 10])):
        _, l2, total = finish(model(LR, seed=i, until="steps", **options))
        first = int((l2[:, 0] <= EASY).nonzero()[0])
        last = first + int(40 * polish)
        assert first > 0 and last < 39
        ending = model(LR, seed=i, until="eps", polish=polish, **options)
        _, ended, _ = finish(ending)
        assert torch.equal(ended, l2[: last + 1])
        (result,) = ending.results
        best = torch.where(l2 <= EASY, total, torch.inf)[: last + 1, 0].argmin()
        assert result.steps == last + 1 and result.best_step == best and result.within_eps


def test_from_the_first_iterate_within_eps_on_the_steps_are_adams(model):
    options = {"steps": 30, "search": "quick", "eps": EASY, "until": "steps", "seed": 0}
    LR = drawn(model, [9])
    _, adam, _ = finish(model(LR, **options))
    _, lbfgs, _ = finish(model(LR, **options, opt_name="lbfgs"))
    first = int((lbfgs[:, 0] <= EASY).nonzero()[0])
    assert 0 < first < 25
    assert torch.equal(adam[: first + 1], lbfgs[: first + 1])
    assert (adam[first + 1 :] != lbfgs[first + 1 :]).all()


def test_in_a_batch_each_picture_has_the_result_that_it_has_alone(model):
    options = {"steps": 40, "eps": EASY, "until": "eps", "polish": 0.05}
    options |= {"learning_rate": 0.02, "lr_schedule": "fixed"}  # rounding is not amplified
    share = torch.tensor([0.3, 0.5, 0.7]).view(3, 1, 1, 1)  # of the way from one's own picture
    LR = drawn(model, [0, 1, 2]).lerp(drawn(model, [9, 10, 11]), share)
    batch = model(LR, seed=[0, 1, 2], **options)
    finish(batch)
    steps = [result.steps for result in batch.results]
    assert len(set(steps)) > 1
    assert batch.steps_done == max(steps)
    for i in range(3):
        alone = model(LR[i], seed=i, **options)
        finish(alone)
        (result,), of_batch = alone.results, batch.results[i]
        assert (result.steps, result.best_step) == (of_batch.steps, of_batch.best_step)
        assert result.l2 == pytest.approx(of_batch.l2, rel=1e-3)


def test_what_is_never_found_is_searched_for_to_the_last_step(model):
    search = model(lr_pictures(1), seed=0, steps=7, until="eps", eps=1e-9)
    _, l2, _ = finish(search)
    assert len(l2) == 7 and search.results[0].steps == 7 and not search.results[0].within_eps
