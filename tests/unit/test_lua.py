"""The Lua scripts consist of small parts: each names its includes and has a single topic."""

import re
from functools import cache
from pathlib import Path

import pytest

import orchestrator.store
from orchestrator import reasons
from orchestrator.models import id_prefix, new_id
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.store.agent_reports import AgentReports
from orchestrator.store.generated import GENERATED, literal
from orchestrator.store.loader import assemble, deferred, includes, library, sources, without_comments

LUA = Path(orchestrator.store.__file__).parent / "lua"
LIBRARY = sorted((LUA / "lib").glob("*.lua"))
SCRIPTS = sorted(LUA.glob("*.lua"))
MAX_LINES = 120


def words(text: str) -> set[str]:
    """Return the names that code uses, without comments, strings and fields of tables."""
    code = re.sub(r"'(?:\\.|[^'\\])*'", "''", without_comments(text))
    return set(re.findall(r"(?<![.\w:])[A-Za-z_]\w*", code))


def defined(text: str) -> set[str]:
    """Return the names that are local to a whole file."""
    names = set()
    for function, variables in re.findall(r"^local (?:function (\w+)|([\w, ]+))", without_comments(text), re.MULTILINE):
        names |= {function} if function else {name.strip() for name in variables.split(",")}
    return names


@cache
def owners() -> dict[str, str]:
    """Return the part that defines each name."""
    return {name: part for part, text in library().items() if part != "prefix" for name in defined(text)}


def name_of(path: Path) -> str:
    return str(path.relative_to(LUA))


@pytest.mark.parametrize("path", [*SCRIPTS, *LIBRARY], ids=name_of)
def test_a_file_includes_what_it_uses_and_nothing_else(path: Path) -> None:
    text = path.read_text()
    if path.stem == "prefix" and path in LIBRARY:
        assert not includes(text), "every script includes it"
        return
    used = words(text) - defined(text)
    late = {name for name in used if name in deferred(text)}
    assert includes(text) == sorted({owners()[name] for name in used - late if name in owners()})
    assert deferred(text) == sorted(late)
    if path in LIBRARY:
        assert not late, "rarely used parts are included only by scripts"


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_a_library_file_is_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[0].startswith("-- "), "its first line must name its topic"


def test_each_name_is_defined_once() -> None:
    names = [name for part, text in library().items() if part != "prefix" for name in defined(text)]
    assert sorted(names) == sorted(set(names))
    assert set(GENERATED).isdisjoint(path.stem for path in LIBRARY)


def test_a_script_hides_no_name_of_its_parts() -> None:
    hidden = {}
    for path in SCRIPTS:
        inner = set(re.findall(r"\blocal (?:function )?(\w+)", without_comments(path.read_text())))
        if names := inner & owners().keys():
            hidden[path.stem] = names
    assert hidden == {}


def test_no_script_uses_a_name_that_is_not_defined() -> None:
    """Redis would detect that only when the line runs."""
    language = set(
        "and break do else elseif end false for function if in local nil not or repeat return then true until while "
        "cjson error ipairs math next pairs redis string table tonumber tostring type unpack KEYS ARGV".split()
    )
    undefined = {}
    for name, source in sources().items():
        declared = set(re.findall(r"\w+", " ".join(re.findall(r"\blocal (?:function )?([\w, ]+)", source))))
        declared |= set(re.findall(r"\w+", " ".join(re.findall(r"\bfunction[^(]*\(([\w, ]*)", source))))
        declared |= set(re.findall(r"\w+", " ".join(re.findall(r"\bfor ([\w, ]+?) (?:=|in) ", source))))
        fields = set(re.findall(r"(\w+) = ", source))
        if names := words(source) - declared - fields - language:
            undefined[name] = names
    assert undefined == {}


def test_every_library_function_is_used_by_a_script() -> None:
    carried = {name for source in sources().values() for name in words(source)}
    # Each reason of the table is a part: scripts make some of them.
    unused = [name for name, part in owners().items() if name not in carried and not part.startswith("reason_")]
    assert unused == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_script_documents_its_arguments_and_result(path: Path) -> None:
    header = re.match(r"(?:--.*\n)+", path.read_text())
    assert header, "its header is missing"
    for part in (r"^-- KEYS  \S", r"^-- ARGV  \S", r"^-- Returns \S"):
        assert re.search(part, header[0], re.MULTILINE), part


def test_a_script_is_named_as_the_method_that_calls_it() -> None:
    """Reports of agents are methods of AgentReports, and their scripts' names begin with `agent_`."""
    methods = set(dir(Store)) | {f"agent_{name}" for name in dir(AgentReports)}
    assert [path.stem for path in SCRIPTS if path.stem not in methods] == []
    calls = re.compile(r"^    (?:async )?def (\w+)\(|_scripts\.call\(\s*\"(\w+)\"", re.MULTILINE)
    others = {"observe", "capacity"}  # called later, and as a part of a reading
    for path in LUA.parent.glob("*.py"):
        method = ""
        for defined_here, called in calls.findall(path.read_text()):
            method = defined_here or method
            name = f"agent_{method}" if path.stem == "agent_reports" else method
            assert not called or called == name or called in others, f"{path.name}: {method} calls {called}"


def test_only_lua_scripts_write_deadlines() -> None:
    """Only scripts change deadlines, because they check whether time counts and what else must be true."""
    sources = {path: path.read_text() for path in (LUA.parent.parent).rglob("*.py")}
    written = re.compile(
        r"\b(z(?:add|incrby|rem\w*|pop\w*)|delete|unlink|rename|set)\([^)]*(?:DEADLINES|[\"']deadlines[\"'])"
    )
    assert {path.name: found for path, text in sources.items() if (found := written.findall(text))} == {}


def test_assembled_scripts_have_no_comments_and_only_ascii() -> None:
    for name, source in sources("shop:").items():
        assert source.isascii(), name
        assert "--" not in source, name


def test_no_line_repeats_a_default_of_the_settings() -> None:
    again = re.compile(r"policy\w*\('\w+'\)\)? or \d")
    assert [path.stem for path in [*SCRIPTS, *LIBRARY] if again.search(path.read_text())] == []
    used = {name for source in sources().values() for name in re.findall(r"policy(?:_ms|_expiry)?\('(\w+)'\)", source)}
    assert used <= Settings.model_construct().policy.keys()


def test_no_constant_is_written_in_lua_and_again_in_python() -> None:
    """Shared constants are in store/constants.py, and scripts include them from there."""
    python = {
        name
        for path in (LUA.parents[1]).rglob("*.py")
        for name in re.findall(r"^_?([A-Z][A-Z_]+)(?:: [^=\n]+)? = \d", path.read_text(), re.MULTILINE)
    }
    assert "FAILING_CALLS" in python
    lua = {path.stem: defined(path.read_text()) & python for path in [*SCRIPTS, *LIBRARY]}
    assert {name: twice for name, twice in lua.items() if twice} == {}


def test_the_time_is_divided_by_constants() -> None:
    """A bucket of time that Python reads too has the same length there. 1000 is a unit."""
    divided = {path.stem: re.findall(r"\bNOW\w* / (\d+)", path.read_text()) for path in [*SCRIPTS, *LIBRARY]}
    assert {name: found for name, found in divided.items() if set(found) - {"1000"}} == {}


def test_no_script_lists_codes_of_reasons() -> None:
    """A flag of the table (reasons.toml) says which codes are meant, as `booting` does."""
    codes = reasons.table().reasons.keys()
    listed = {
        path.stem: found
        for path in [*SCRIPTS, *LIBRARY]
        if (found := set(re.findall(r"\b(\w+) = true", without_comments(path.read_text()))) & codes)
    }
    assert listed == {}


def test_an_id_begins_with_its_kind() -> None:
    assert new_id("session").startswith(id_prefix("session"))
    assert GENERATED["session_id_start"]() == "local SESSION_ID_START='session_'\n"


def test_a_part_is_included_once_before_its_users() -> None:
    source = assemble("-- include: breaker, takeover\nreturn breaker_open()\n")
    assert source.endswith("return breaker_open()\n")
    assert source.count("local function get(") == 1
    assert source.index("local function get(") < source.index("local function breaker_open(")


def test_a_deferred_function_contains_the_parts_that_only_it_uses() -> None:
    source = assemble("-- include: records\n-- defer: breaker_open\nreturn breaker_open()\n")
    assert source.count("local function get(") == source.count("local BREAKER_FAILURES") == 1
    start = source.index("local function breaker_open(...)")
    assert source.index("local function get(") < start < source.index("local BREAKER_FAILURES")
    assert source.endswith("return breaker_open(...)\nend\nreturn breaker_open()\n")


def test_deferring_an_unknown_function_is_an_error() -> None:
    with pytest.raises(KeyError, match="breaker_ajar"):
        assemble("-- defer: breaker_ajar\n")


def test_an_unknown_part_is_an_error() -> None:
    with pytest.raises(KeyError, match="clocks"):
        assemble("-- include: clocks\n")


def test_a_circular_include_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"one": "-- include: two\n", "two": "-- include: one\n"}
    monkeypatch.setattr("orchestrator.store.loader.library", lambda: parts)
    with pytest.raises(ValueError, match="one -> two -> one"):
        assemble("-- include: one\n")


def test_python_values_become_lua_literals() -> None:
    value = {"a b": [1, 2.5, True], "it's": "\\"}
    assert literal(value) == "{['a b']={1,2.5,true},['it\\'s']='\\\\'}"
