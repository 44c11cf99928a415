"""The search as a library: the golden trajectory, and every correction that lies in it."""

import numpy as np
import pytest
import torch
from conftest import golden, golden_state, one_file

from bicubic import BicubicDownSample
from generators.formats import FORMAT
from generators.latents import starting_point
from loss import LossBuilder
from PULSE import PULSE, choose_device
from search_settings import Settings
from SphericalOptimizer import row_norm


@pytest.fixture(scope="module")
def model(tiny) -> PULSE:
    return PULSE(tiny, device="cpu")


def lr_pictures(number: int, side: int = 4, seed: int = 5) -> torch.Tensor:
    return torch.rand(number, 3, side, side, generator=torch.Generator().manual_seed(seed))


def finish(search) -> tuple[torch.Tensor, torch.Tensor]:
    """The last pair that a search yields."""
    *_, pair = search
    return pair


@pytest.fixture(scope="module")
def golden_generator(tmp_path_factory):
    """The generator of the golden search, as a one-file generator."""
    arrays = golden("search_1024")
    config = {"resolution": 1024, "dlatent_size": 512}
    config |= {key: int(arrays[key]) for key in ("fmap_base", "fmap_max")}
    path = tmp_path_factory.mktemp("golden") / "search_1024.pt"
    content = {
        "format": FORMAT,
        "config": config,
        "synthesis": golden_state(arrays),
        "mapping": None,
        "gaussian_fit": {key: torch.from_numpy(arrays[key]) for key in ("mean", "std")},
        "about": {},
    }
    torch.save(content, path)
    return arrays, path


@pytest.mark.parametrize(("slow", "steps"), [(True, 30), (False, 5)])
def test_the_golden_search_at_1024_pixels(golden_generator, slow, steps):
    arrays, path = golden_generator
    rows = []
    search = PULSE(path, device="cpu")(
        torch.from_numpy(arrays["ref"]),
        seed=int(arrays["seed"]),
        steps=30,  # the schedule stretches over 30, also where fewer are compared
        learning_rate=float(arrays["slow_learning_rate"]) if slow else 0.4,
        save_intermediate=True,
        on_step=lambda step, f: rows.append(
            [f["total"].item(), max(f["L2"].item(), 2e-3), f["GEOCROSS"].item()]
        ),
    )
    for _, (HR, LR) in zip(range(steps), search, strict=False):
        pass
    expected = arrays[("slow_" if slow else "") + "trajectory_total_l2_geocross"][:steps]
    error = np.abs(np.array(rows) / expected - 1).max(axis=1)
    if slow:
        assert error.max() < 0.05
        assert np.abs(LR.numpy() - arrays["slow_LR_best"]).mean() < 0.02
        HR_64 = BicubicDownSample(16)(HR).numpy()
        assert np.abs(HR_64 - arrays["slow_HR_best_64"]).mean() < 0.02
    else:  # at this learning rate the search is chaotic: rounding decides the later rows
        assert error[:3].max() < 1e-3
        assert error[3:].max() < 5e-3


def test_five_lines_of_python_find_faces(model):
    for HR, LR in model(lr_pictures(2), seed=0):
        pass
    assert HR.shape == (2, 3, 16, 16) and LR.shape == (2, 3, 4, 4)
    assert HR.device.type == "cpu"
    for tensor in (HR, LR):
        assert tensor.min() >= 0 and tensor.max() <= 1


def test_one_picture_may_come_without_a_batch_dimension(model):
    HR, _ = finish(model(lr_pictures(1)[0], seed=0, steps=2))
    assert HR.shape == (1, 3, 16, 16)


def test_the_results_are_those_of_the_pictures_that_are_yielded(model):
    ref_im = lr_pictures(2)
    search = model(ref_im, seed=3, steps=12)
    HR, LR = finish(search)
    down = BicubicDownSample(4)
    for i, result in enumerate(search.results):
        # where nothing had to be clamped the figure can be had again from the picture
        unclamped = ((HR[i] > 0) & (HR[i] < 1)).all()
        found = (down(HR[i : i + 1]) - ref_im[i]).square().mean().item()
        if unclamped:
            assert found == pytest.approx(result.l2, rel=1e-4)
        assert result.seed == 3
        assert 0 <= result.best_step < 12
        assert result.within_eps == (result.l2 <= 2e-3)
        assert result.geocross > 0
        expected = 100 * max(result.l2, 2e-3) + 0.05 * result.geocross
        assert result.total == pytest.approx(expected, rel=1e-4)


def judged(model, ref_im, **options):
    """Every iterate's figures, and the result: what a search saw, and what it chose."""
    rows = []
    search = model(ref_im, on_step=lambda step, f: rows.append((f["L2"], f["total"])), **options)
    pair = finish(search)
    l2, total = (torch.stack(column) for column in zip(*rows, strict=True))  # (T, B)
    return l2, total, search.results, pair


def test_the_best_iterate_is_kept_and_not_the_last(model):
    restless = {"learning_rate": 4.0, "lr_schedule": "fixed"}
    l2, total, results, _ = judged(model, lr_pictures(3), seed=1, steps=24, **restless)
    for i, result in enumerate(results):
        assert result.best_step == total[:, i].argmin()
        assert result.total == total[:, i].min()
    assert any(result.best_step != 23 for result in results)


def test_an_iterate_within_eps_beats_lower_losses_outside(model):
    options = {"seed": 1, "steps": 25, "loss_str": "0*L2+1*GEOCROSS"}
    l2, total, _, _ = judged(model, lr_pictures(1), **options)
    eps = float(l2[:, 0].sort().values[3]) * 1.0001  # four iterates lie within it
    _, _, (result,), _ = judged(model, lr_pictures(1), eps=eps, **options)
    inside = l2[:, 0] <= eps
    assert inside.sum() == 4
    assert result.within_eps
    assert result.best_step == torch.where(inside, total[:, 0], torch.inf).argmin()
    assert result.total > total.min()


def test_eps_is_held_against_each_picture_alone(model):
    """A batch of two can succeed, and one can be within eps beside one that is not."""
    l2, *_ = judged(model, lr_pictures(2), seed=4, steps=20)
    best = l2.min(dim=0).values
    eps = float(best.mean())
    _, _, results, _ = judged(model, lr_pictures(2), seed=4, steps=20, eps=eps)
    assert sorted(result.within_eps for result in results) == [False, True]


def test_a_picture_does_not_depend_on_its_neighbours(model):
    """The pictures of a batch share the arithmetic, and nothing else: up to rounding, which steps
    this short do not amplify, each ends where it ends alone, also beside very different ones.
    """
    ref_im = lr_pictures(3)
    settings = Settings(steps=15, learning_rate=0.02)
    batch = model(ref_im, seed=[7, 8, 9], settings=settings)
    HR, _ = finish(batch)
    assert [result.seed for result in batch.results] == [7, 8, 9]
    for i in range(3):
        alone = model(ref_im[i : i + 1], seed=7 + i, settings=settings)
        assert torch.allclose(finish(alone)[0][0], HR[i], atol=1e-5)
        assert alone.results[0].l2 == pytest.approx(batch.results[i].l2, rel=1e-4)
        other, _ = finish(model(ref_im[[i, (i + 1) % 3]], seed=[7 + i, 99], settings=settings))
        assert torch.allclose(other[0], HR[i], atol=1e-5)


def test_seed_zero_counts_and_seeds_differ(model):
    ref_im = lr_pictures(1)
    first, _ = finish(model(ref_im, seed=0, steps=3))
    again, _ = finish(model(ref_im, seed=0, steps=3))
    other, _ = finish(model(ref_im, seed=1, steps=3))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_drawn_seed_repeats_the_search(model):
    ref_im = lr_pictures(1)
    search = model(ref_im, steps=3)
    HR, _ = finish(search)
    again, _ = finish(model(ref_im, steps=3, seed=search.results[0].seed))
    assert torch.equal(HR, again)


def test_the_global_random_state_is_neither_used_nor_changed(model):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = finish(model(lr_pictures(1), seed=0, steps=2))
    assert torch.equal(before, torch.get_rng_state())


def test_the_starting_point_is_drawn_in_the_published_order(model):
    generator = model.generator
    random = torch.Generator().manual_seed(11)
    settings = Settings(bad_noise_layers="1", num_trainable_noise_layers=2)
    v, noise = starting_point(generator, settings, 11)
    assert torch.equal(v, torch.randn(1, 6, 16, generator=random))
    for layer, size in enumerate([4, 4, 8, 8, 16, 16]):
        if layer == 1:  # zeroed: draws nothing
            assert not noise[layer].any()
        else:
            assert torch.equal(noise[layer], torch.randn(1, 1, size, size, generator=random))
    tiled, _ = starting_point(generator, Settings(tile_latent=True), 11)
    assert tiled.shape == (1, 1, 16)


@pytest.mark.parametrize("noise_type", ["zero", "fixed", "trainable"])
def test_noise_types(model, noise_type):
    settings = Settings(noise_type=noise_type, num_trainable_noise_layers=3, steps=3)
    search = model(lr_pictures(1), seed=0, settings=settings)
    before = [maps.detach().clone() for maps in search.noise]
    finish(search)
    moved = [not torch.equal(a, b) for a, b in zip(before, search.noise, strict=True)]
    assert moved == [noise_type == "trainable" and layer < 3 for layer in range(6)]
    assert all(bool(maps.any()) == (noise_type != "zero") for maps in before)


def test_every_variable_stays_on_its_own_sphere(model):
    search = model(lr_pictures(1), seed=0, steps=10, num_trainable_noise_layers=6)
    variables = [search.v, *search.noise]
    radii = [row_norm(variable.detach()) for variable in variables]
    finish(search)
    for variable, radius in zip(variables, radii, strict=True):
        assert torch.allclose(row_norm(variable.detach()), radius, rtol=1e-4)


def test_tile_latent_searches_one_latent_and_has_no_geocross(model):
    search = model(lr_pictures(1), seed=0, steps=3, tile_latent=True)
    finish(search)
    assert search.v.shape == (1, 1, 16)
    assert search.results[0].geocross == 0


@pytest.mark.parametrize("opt_name", ["sgd", "adam", "sgdm", "adamax"])
@pytest.mark.parametrize("lr_schedule", ["fixed", "linear1cycle", "linear1cycledrop"])
def test_every_optimiser_and_schedule_comes_closer(model, opt_name, lr_schedule):
    options = {"opt_name": opt_name, "lr_schedule": lr_schedule, "loss_str": "100*L2"}
    l2, _, results, _ = judged(model, lr_pictures(1), seed=2, steps=30, **options)
    assert results[0].l2 < l2[0, 0]


def test_save_intermediate_yields_the_best_so_far_after_every_step(model):
    pairs = [HR for HR, _ in model(lr_pictures(1), seed=1, steps=9, save_intermediate=True)]
    assert len(pairs) == 9
    _, total, (result,), (last, _) = judged(model, lr_pictures(1), seed=1, steps=9)
    assert torch.equal(pairs[-1], last)
    improved = [bool(total[t, 0] < total[:t, 0].min()) for t in range(1, 9)]
    changed = [not torch.equal(a, b) for a, b in zip(pairs, pairs[1:], strict=False)]
    assert changed == improved


@pytest.mark.parametrize(("resolution", "side"), [(8, 2), (8, 4), (32, 2), (32, 16), (128, 16)])
def test_any_resolution_and_lr_side(tmp_path, resolution, side):
    path = one_file(tmp_path / "generator.pt", resolution)
    HR, LR = finish(PULSE(path, device="cpu")(lr_pictures(1, side), seed=0, steps=3))
    assert HR.shape[-1] == resolution and LR.shape[-1] == side


def test_only_the_terms_of_the_loss_string_count():
    ref_im = lr_pictures(1)
    HR = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    w = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(2))
    total, terms = LossBuilder(ref_im, "3*L1 + 2*L2", 2e-3)(w, HR)
    assert total.item() == pytest.approx((3 * terms["L1"] + 2 * terms["L2"]).item())


def test_weights_that_give_no_finite_number_are_said_and_do_not_crash(model, tmp_path):
    state = model.generator.synthesis.state_dict()
    broken = {key: value.clone() for key, value in state.items()}
    broken["torgb.bias"][:] = torch.nan
    path = one_file(tmp_path / "nan.pt", synthesis=broken)
    search = PULSE(path, device="cpu")(lr_pictures(1), seed=0, steps=2)
    finish(search)
    assert search.results[0].best_step == -1
    assert not search.results[0].within_eps


@pytest.mark.parametrize(
    ("ref_im", "options", "words"),
    [
        (torch.rand(1, 3, 4, 8), {}, "not square"),
        (torch.rand(1, 3, 5, 5), {}, "must be one of 2, 4, 8"),
        (torch.rand(1, 3, 16, 16), {}, "must be one of 2, 4, 8"),
        (torch.rand(1, 3, 1, 1), {}, "must be one of 2, 4, 8"),
        (torch.rand(1, 1, 4, 4), {}, r"\(B, 3, h, h\)"),
        (torch.rand(0, 3, 4, 4), {}, r"\(B, 3, h, h\)"),
        (torch.rand(1, 3, 4, 4) * 255, {}, "outside"),
        (torch.full((1, 3, 4, 4), torch.nan), {}, "outside"),
        (torch.rand(2, 3, 4, 4), {"seed": [1]}, "1 seeds"),
        (torch.rand(1, 3, 4, 4), {"seed": -1}, "seed must be"),
        (torch.rand(1, 3, 4, 4), {"steps": 0}, "steps must be"),
        (torch.rand(1, 3, 4, 4), {"bad_noise_layers": "6"}, "layer 6"),
        (torch.rand(1, 3, 4, 4), {"num_trainable_noise_layers": 7}, "has 6 noise layers"),
        (torch.rand(1, 3, 4, 4).numpy(), {}, "must be a tensor of PyTorch, not ndarray"),
        (torch.rand(1, 3, 4, 4), {"seed": 3.7}, "seed must be a whole number, or one for each"),
        (torch.rand(2, 3, 4, 4), {"seed": [3.7, 1.2]}, "seed must be a whole number, or one"),
        (torch.rand(2, 3, 4, 4), {"seed": "12"}, "seed must be a whole number, or one for each"),
        (torch.rand(1, 3, 4, 4), {"bad_noise_layers": 17}, "bad_noise_layers must be text, not 17"),
        (torch.rand(1, 3, 4, 4), {"bad_noise_layers": "9" * 5000}, "bad_noise_layers '9999"),
        (torch.rand(1, 3, 4, 4), {"loss_str": 5}, "loss_str must be text, not 5"),
        (torch.rand(1, 3, 4, 4), {"opt_name": ["adam"]}, "opt_name must be text"),
        (
            torch.rand(1, 3, 4, 4),
            {"loss_str": "1*GEOCROSS", "tile_latent": True},
            "GEOCROSS alone, which is 0 with tile_latent",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_before_the_search(model, ref_im, options, words):
    with pytest.raises(ValueError, match=words):
        model(ref_im, **options)


def test_whole_numbers_of_numpy_and_pytorch_are_whole_numbers(model):
    ref_im = lr_pictures(2)
    plain = finish(model(ref_im, seed=[3, 4], steps=3))[0]
    for seed in (np.array([3, 4]), torch.tensor([3, 4]), (np.int64(3), 4)):
        search = model(ref_im, seed=seed, steps=np.int64(3), eps=np.float32(2e-3))
        assert torch.equal(finish(search)[0], plain) and search.seeds == [3, 4]
        assert type(search.settings.steps) is int and type(search.settings.eps) is float


def test_polishing_has_no_more_steps_than_the_search(model):
    search = model(lr_pictures(1), seed=0, steps=3, eps=1, until="eps", polish=1e307)
    finish(search)
    assert search.results[0].within_eps and search.results[0].steps == 3


def test_defaults_are_cut_to_the_layers_that_there_are(tmp_path):
    """Layer 17 exists only at 1024 pixels, five trainable layers only from 16 pixels on."""
    roles = Settings().noise_roles(4)
    assert roles == ["trainable"] * 4
    assert Settings().noise_roles(18) == ["trainable"] * 5 + ["fixed"] * 12 + ["zero"]
    with pytest.raises(ValueError, match="layer 17"):
        Settings(bad_noise_layers="17").noise_roles(10)


def test_a_device_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match="'tpu' is not available"):
        choose_device("tpu")
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cuda", "mps", "cpu")
