"""Result cards: written and read whole, and compared by what was found."""

from dataclasses import replace

import numpy as np
import pytest

from glasslib import cards

CARD = cards.ResultCard(
    target="a large red star",
    preset="tiny",
    seed=3,
    weights={"clip": "ab" * 32},
    versions={"torch": "2.15.0"},
    evaluations=1600,
    wall_time_s=12.5,
    score=0.4123456789012345,
    judge_score=0.4,
    lineage=({"generation": 0, "score": 0.1}, {"generation": 7, "score": 0.4}),
)


def test_card_survives_the_disk_bit_for_bit(tmp_path):
    CARD.write(tmp_path / "card.json")
    assert cards.same(cards.ResultCard.read(tmp_path / "card.json"), CARD)
    assert cards.ResultCard.read(tmp_path / "card.json").score == CARD.score


def test_cards_differ_in_what_was_found_and_not_in_how_long_it_took():
    assert cards.same(CARD, replace(CARD, wall_time_s=99.0, versions={"torch": "3.0"}))
    nudged = replace(CARD, score=float(np.nextafter(CARD.score, 1)))
    assert cards.differences(CARD, nudged) == {"score": (CARD.score, nudged.score)}
    assert cards.replay(CARD, lambda card: replace(card, lineage=())).keys() == {"lineage"}
    assert cards.replay(CARD, lambda card: card) == {}


@pytest.mark.parametrize("text", ['{"target": "x"}', "[1]"])
def test_another_file_is_not_a_card(tmp_path, text):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match="is not a result card"):
        cards.ResultCard.read(tmp_path / "card.json")
