"""The page that says which systems may be used, generated from audits."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from kt_forecast import zoo
from kt_forecast.errors import InputError
from kt_forecast.nn.system import SystemConfig
from kt_forecast.studies import causality
from kt_forecast.studies.causality import Entry, Form, leaking_settings

QUIET = {"say": lambda _: None}


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causality, "STEPS", 20)
        patch.setattr(causality, "MOMENTS", 2)
        return list(causality.entries(["gpt", "memory_transformer"], **QUIET))


def test_a_system_that_is_causal_as_published_has_one_form(found):
    gpt = found[0]
    assert gpt.own.verdict == "proved"
    assert gpt.published is None
    assert gpt.answer == "Yes, as published."


def test_a_published_leak_is_found_and_told_with_its_numbers(found):
    memory = found[1]
    assert memory.own.verdict == "proved"
    assert memory.published.settings == "published=true"
    assert memory.published.leaks
    assert "moves by" in memory.published.found
    assert memory.answer.startswith("Yes, with the change. Not with published=true")
    assert "memory tokens read only each" in memory.change
    assert "Departures" not in memory.change
    assert not memory.unlike_its_promise


@pytest.mark.parametrize("ending", [".md", ".html"])
def test_the_page_says_it_all(found, ending, tmp_path):
    path = tmp_path / f"systems{ending}"
    causality.written(found, path)
    page = path.read_text(encoding="utf-8")
    for one in found:
        assert one.name in page
        assert one.answer in page
    assert found[1].published.found in page
    assert "2 of 2 systems may be used" in page


def test_a_system_that_leaks_unasked_is_refused_and_named():
    form = Form("", "leak", "the output moves", "")
    entry = Entry("odd", "Odd.", "step", "", form, None)
    assert entry.answer == "No: the audit found that it reads later steps."
    page = causality.as_markdown([entry])
    assert "LEAKS: the output moves" in page
    assert "Unlike what they promise: odd" in page


def test_a_published_form_that_the_audit_calls_honest_is_named():
    own, published = (Form(said, "proved", "", "") for said in ("", "published=true"))
    assert Entry("odd", "Odd.", "step by change", "", own, published).unlike_its_promise


@pytest.mark.parametrize("name", zoo.names())
def test_settings_that_leak_are_found_wherever_there_are_any(name):
    system = zoo.load(name)
    leaks = system.config.leak is not SystemConfig.leak and system.build is not None
    changed = leaking_settings(system)
    assert (changed is not None) == leaks
    if changed is not None:
        assert system.config(**changed).leak


@pytest.mark.parametrize(("file", "said"), [("page.pdf", "ends in .pdf"), ("no/a.md", "no folder")])
def test_a_file_that_cannot_be_written_is_refused_before_the_audits(file, said, tmp_path):
    with pytest.raises(InputError, match=said):
        causality.writable(tmp_path / file)


def test_another_form_that_leaks_unasked_is_refused_and_named():
    honest, other = (Form(said, "proved", "", "") for said in ("", "form=a"))
    leaking = Form("form=b", "leak", "the output moves", "")
    entry = Entry("odd", "Odd.", "step", "", honest, None, (other, leaking))
    assert entry.answer == "Yes, as published. Not with form=b: see the audit."
    assert entry.unlike_its_promise
    assert "proved: form=a; LEAKS: form=b" in causality.as_markdown([entry])


def test_every_choice_is_another_form_or_leaks_or_is_a_network():
    titans = causality.other_forms(zoo.load("titans"))
    assert titans == [{"form": form} for form in ("mac", "mal", "lmm")]
    assert {"published": True} not in causality.other_forms(zoo.load("informer"))
    patterns = causality.other_forms(zoo.load("flash_attention"))
    assert all("pattern" in form for form in patterns)


def test_the_page_that_is_kept_answers_for_every_system_and_finds_each_published_leak():
    page = (Path(zoo.__file__).parent / "CAUSALITY.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[(\w+)\]\(#\w+\) \| (.*)$", page, re.MULTILINE))
    assert sorted(rows) == sorted(zoo.names())
    assert "Unlike what they promise" not in page
    for name, row in rows.items():
        system = zoo.load(name)
        assert f"| {system.promises.causality} |" in row
        assert ("LEAKS" in row) == (leaking_settings(system) is not None)


def test_a_word_that_reaches_no_system_is_refused():
    with pytest.raises(InputError, match="gpt"):
        list(causality.entries(["gtp"], **QUIET))


def test_every_system_says_how_it_became_causal():
    for name in zoo.names():
        system = zoo.load(name)
        page = import_module(f"kt_forecast.zoo.{name}").__doc__
        if system.promises.causality == "step by change":
            assert len(page.split("Departures")[0].split()) > 30, name
