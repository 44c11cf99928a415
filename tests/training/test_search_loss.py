"""training/search_loss.py: the searches of a training are those of the program."""

import torch
from conftest import one_file

from PULSE import PULSE, Search
from search_settings import Settings
from training.search_loss import Group, Searches


def test_a_search_in_training_is_the_search_of_PULSE(tmp_path):
    generator = PULSE(one_file(tmp_path / "g.pt", resolution=32), "cpu", tmp_path).generator
    sizes, random = generator.synthesis.layer_sizes, torch.Generator().manual_seed(0)
    searches = Searches(4, sizes, generator.dlatent_size, 16, torch.device("cpu"))
    searches.prior = generator.mean, generator.std
    faces = torch.rand(4, 3, 32, 32, generator=random) * 2 - 1
    searches.renew(faces, lambda *shape: torch.randn(*shape, generator=random))
    LR = searches.groups[0].LR
    search = Search(generator, generator.synthesis, LR, Settings(), [0])
    start = [search.v, *search.noise]
    v, *noise = (each.detach().clone() for each in start)
    group = searches.groups[0] = Group(LR, v, noise, Settings())
    assert [group.age for group in searches.groups] == [0, 25, 50, 75]
    for _ in range(4):
        figures = search.step()
        w, maps = searches.inputs()
        total, distance = searches.judge(w, generator.synthesis(w, maps))
        torch.testing.assert_close(total[:1].detach(), figures["total"], rtol=1e-4, atol=0)
        torch.testing.assert_close(distance[:1].detach(), figures["L2"], rtol=1e-4, atol=0)
        searches.advance(torch.autograd.grad(total.sum(), searches.searched()))
    assert group.age == 4
    for mine, theirs in zip([group.v, *group.noise], start, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_searches_that_ended_make_room_for_new_faces():
    random = torch.Generator().manual_seed(0)
    searches = Searches(8, [4, 4, 8, 8, 16, 16, 32, 32], 16, 16, torch.device("cpu"))

    def draw(*shape):
        return torch.randn(*shape, generator=random)

    faces = torch.ones(8, 3, 32, 32)
    searches.renew(-faces, draw)
    for group in searches.groups:
        group.age += 25
    searches.renew(faces, draw)
    assert [group.age for group in searches.groups] == [0, 25, 50, 75]
    assert [group.LR.mean().round().item() for group in searches.groups] == [1, 0, 0, 0]
    assert searches.weights().tolist() == sorted(searches.weights().tolist())


def test_searches_for_faces_of_another_size_begin_anew():
    random, sizes = torch.Generator().manual_seed(0), [4, 4, 8, 8, 16, 16, 32, 32]
    first, same, other = (Searches(4, sizes, 16, side, torch.device("cpu")) for side in (16, 16, 8))
    first.renew(torch.zeros(4, 3, 32, 32), lambda *shape: torch.randn(*shape, generator=random))
    for searches in (same, other):
        searches.load_state_dict(first.state_dict())
    assert len(same.groups) == 4 and not other.groups
    other.renew(torch.zeros(4, 3, 32, 32), lambda *shape: torch.randn(*shape, generator=random))
    assert other.groups[0].LR.shape == (1, 3, 8, 8)
