"""Charts: every number is drawn, missing ones are left out, and no label becomes markup."""

import math
from xml.etree import ElementTree

import pytest

from edgesteer.report.charts import Bar, Series, bars, heat, lines, radar
from edgesteer.report.svg import Axis, Drawing, standalone

HOSTILE = '<script>alert("1")</script> & \x1b[31m \u202eabc'
SPACE = "{http://www.w3.org/2000/svg}"


def parsed(svg: Drawing) -> ElementTree.Element:
    return ElementTree.fromstring(svg.svg())


def count(svg: Drawing, tag: str) -> int:
    return len(list(parsed(svg).iter(SPACE + tag)))


def charts(name: str) -> list[Drawing]:
    return [
        lines(
            name, name, name, [Series(name, [(1, 2), (2, 3)], [name, name])], marks=[Series(name, [(1, 1)])]
        ),
        bars(name, name, [Bar(name, 1.0, 0.5, 1.5, name), Bar(name, None)]),
        radar(name, [name, name, name], [(name, [0.0, None, 1.0])]),
        heat(name, [name], [name], [[1.0]], x=name, y=name),
    ]


@pytest.mark.parametrize("svg", charts(HOSTILE))
def test_labels_are_text(svg):
    drawing = parsed(svg)
    assert not list(drawing.iter(SPACE + "script"))
    assert "\x1b" not in svg.svg()
    assert drawing.get("role") == "img"


def test_every_point_has_a_mark_and_a_tooltip():
    svg = lines("t", "x", "y", [Series("a", [(0, 0), (1, 1), (2, 4)], ["p", "q", "r"])])
    assert [title.text for title in parsed(svg).iter(SPACE + "title")] == ["a: p", "a: q", "a: r"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(bad):
    good = [(0.0, 0.0), (1.0, 1.0)]
    assert count(lines("t", "x", "y", [Series("a", [*good, (2.0, bad), (bad, 2.0)])]), "title") == 2
    assert "not measured" in bars("t", "", [Bar("a", bad), Bar("b", 1.0)]).svg()
    assert "not measured" in heat("t", ["r"], ["c", "d"], [[bad, 1.0]]).svg()


def test_a_logarithmic_axis_leaves_out_zero():
    assert count(lines("t", "x", "y", [Series("a", [(0, 1), (1, 1), (2, 1)])], log_x=True), "title") == 2


@pytest.mark.parametrize(
    "nothing",
    [
        lambda: lines("t", "x", "y", []),
        lambda: lines("t", "x", "y", [Series("a", [])]),
        lambda: lines("t", "x", "y", [Series("a", [(math.nan, 1.0)])]),
        lambda: bars("t", "", []),
        lambda: bars("t", "", [Bar("a", None)]),
        lambda: radar("t", ["a", "b"], [("s", [1.0, 1.0])]),
        lambda: radar("t", ["a", "b", "c"], []),
        lambda: radar("t", ["a", "b", "c"], [("s", [1.0, 1.0])]),
        lambda: radar("t", ["a", "b", "c"], [("s", [1.0, 1.0, 1.5])]),
        lambda: heat("t", [], [], []),
        lambda: heat("t", ["a"], ["b"], [[1.0, 2.0]]),
        lambda: standalone([]),
    ],
)
def test_nothing_to_draw_is_refused(nothing):
    with pytest.raises(ValueError, match="expected"):
        nothing()


@pytest.mark.parametrize("values", [[1.0], [0.0], [-3.0, 5.0], [1e-9, 1e9], [1.01, 1.02]])
@pytest.mark.parametrize("log", [False, True])
def test_an_axis_holds_its_values_and_ticks(values, log):
    if log and min(values) <= 0:
        return
    axis = Axis.over(values, 0.0, 100.0, log)
    assert all(-0.01 <= axis.at(v) <= 100.01 for v in values)
    assert all(-0.01 <= axis.at(t) <= 100.01 for t in axis.ticks())
    places = [axis.at(t) for t in axis.ticks()]
    assert places == sorted(set(places))
    assert 1 <= len(places) <= 25


def test_an_interval_and_a_bar_lie_where_their_numbers_do():
    svg = parsed(bars("t", "", [Bar("a", 2.0), Bar("b", -1.0)]))
    first, second = svg.iter(SPACE + "rect")
    zero = float(first.get("x"))
    assert float(second.get("x")) + float(second.get("width")) == pytest.approx(zero, abs=0.1)
    assert float(first.get("width")) == pytest.approx(2 * float(second.get("width")), rel=0.01)


def test_a_file_of_several_charts_holds_them_all_below_each_other():
    several = charts("a")
    outer = ElementTree.fromstring(standalone(several))
    inner = [child for child in outer if child.tag == SPACE + "svg"]
    assert len(inner) == len(several)
    heights = [float(child.get("y")) for child in inner]
    assert heights == sorted(set(heights))
    assert float(outer.get("height")) > heights[-1]


def test_a_long_label_stays_inside():
    svg = parsed(bars("t", "", [Bar("a very long name " * 10, 1.0)]))
    assert max(len(t.text or "") for t in svg.iter(SPACE + "text")) < 60
