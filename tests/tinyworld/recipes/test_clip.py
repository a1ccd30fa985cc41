import numpy as np
import torch
from torch import nn

from glasslib.tinyworld import captions, scenes, wording
from glasslib.tinyworld.recipes import clip
from glasslib.tinyworld.recipes.checkpoints import Session


def test_tags_by_hand():
    world = scenes.sample(1, rng=np.random.default_rng(0), n_objects=(1, 1))
    for name, index in {"shape": 3, "colour": 5, "size": 2, "place": 4}.items():
        getattr(world, name)[0, 0] = index
    world.background[0], world.texture[0] = 1, 2
    expected = [3, 8 + 5, 16 + 3 * 8 + 5, 80 + 3 * 5 + 4, 120 + 5 * 5 + 4, 160 + 2 * 5 + 4, 175 + 1, 180 + 2, 185 + 0]
    assert clip.tags(world)[0].nonzero()[:, 0].tolist() == expected


def test_tags_list_every_object_and_nothing_for_absent_ones():
    world = scenes.sample(200, rng=np.random.default_rng(1))
    hot = clip.tags(world)
    assert hot.shape == (200, clip.N_TAGS)
    pairs = [len(set(zip(s[s >= 0], c[s >= 0], strict=True))) for s, c in zip(world.shape, world.colour, strict=True)]
    assert hot[:, 16:80].sum(1).tolist() == pairs
    assert (hot[:, 185:].argmax(1).numpy() + 1 == world.n_objects).all()


def test_batches_of_scenes_alike_share_background_and_first_colour():
    world = scenes.sample(4000, rng=np.random.default_rng(2))
    groups, rng = clip.alike(world), torch.Generator().manual_seed(0)
    assert sum(map(len, groups)) == len(world)
    rows = clip.draw_rows("alike", groups, len(world), rng).numpy()
    assert len(set(world.background[rows])) == 1 and len(set(world.colour[rows, 0])) == 1
    rows = clip.draw_rows("random", groups, len(world), rng).numpy()
    assert len(rows) == clip.BATCH_SIZE and len(set(world.background[rows])) > 1


def test_batches_are_random_at_first_and_then_take_turns():
    assert {clip.kind_of_batch(step) for step in range(clip.HARD_FROM)} == {"random"}
    turns = [clip.kind_of_batch(clip.HARD_FROM + i) for i in range(4)]
    assert turns == ["alike", "twins", "random", "twins"]


def test_twins_differ_only_in_what_belongs_to_what():
    world = scenes.sample(500, rng=np.random.default_rng(5))
    twins = clip.twins_of(world, rng=np.random.default_rng(6))
    several = world.n_objects > 1
    for name in ("shape", "colour"):
        ours, theirs = getattr(world, name), getattr(twins, name)
        assert (np.sort(ours[several]) == np.sort(theirs[several])).all()
        assert ((ours < 0) == (theirs < 0)).all()
        assert (ours[several] != theirs[several]).any(axis=1).mean() > 0.3  # the other half has the other one moved
    assert (world.shape[~several, 0] != twins.shape[~several, 0]).all()
    assert (world.colour[~several] == twins.colour[~several]).all()
    for name in ("place", "size", "x", "y", "background", "texture", "n_objects"):
        assert (getattr(world, name) == getattr(twins, name)).all()


def test_a_batch_of_twins_holds_scenes_and_then_their_twins():
    world, pictures = clip.training_pictures(0, 64)
    assert len(world) == len(pictures) == 64
    assert (world.x[:32] == world.x[32:]).all()
    rows = clip.draw_rows("twins", [], 64, torch.Generator().manual_seed(0))
    assert len(rows) == clip.BATCH_SIZE
    assert (rows[clip.BATCH_SIZE // 2 :] == rows[: clip.BATCH_SIZE // 2] + 32).all()


def test_contrastive_loss_is_least_for_matched_pairs_and_known_for_chance():
    apart = torch.eye(4)
    assert clip.contrastive_loss(apart, apart, 50.0) < 1e-6
    assert torch.isclose(clip.contrastive_loss(torch.ones(4, 1), torch.ones(4, 1), 50.0), torch.tensor(4.0).log())
    assert clip.contrastive_loss(apart, apart.flip(0), 1.0) > clip.contrastive_loss(apart, apart, 1.0)


def test_a_share_of_captions_is_styled():
    world = scenes.sample(2000, rng=np.random.default_rng(3))
    registers = [captions.parse(text).register for text in clip.write_captions(world, np.random.default_rng(4))]
    assert 0.07 < np.mean([register != "neutral" for register in registers]) < 0.13
    assert set(registers) == set(wording.REGISTERS)


def _run(folder, stops):
    """Fit a line, in as many sittings as there are stops; the final weight."""
    for stop in stops:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        rng = torch.Generator().manual_seed(0)
        session = Session(folder, model=model, optimizer=optimizer, rng=rng)
        for step in range(session.step, stop):
            x = torch.randn(8, 3, generator=rng)
            optimizer.zero_grad()
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
            session.save(step + 1, loss=0.0)
    return model.weight.detach()


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path):
    assert torch.equal(_run(tmp_path / "a", [20]), _run(tmp_path / "b", [3, 11, 20]))
    assert len((tmp_path / "b" / "log.jsonl").read_text().splitlines()) == 20
