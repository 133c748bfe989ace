import types

from parity.backend.switch import Switch, pin, read, read_back


def row(path, *exact, setter=""):
    return Switch(path=path, exact=exact, setter=setter, source="a test")


class Strict:
    """Refuses names and types that it does not know, as torch's own switches do."""

    __slots__ = ("flag", "level")

    def __init__(self):
        self.flag, self.level = True, 3

    @property
    def mixed(self):
        raise RuntimeError("mix of the legacy and new APIs")

    @mixed.setter
    def mixed(self, value):
        self.level = value


def torch_with(**parts):
    module = types.ModuleType("torch")
    module.backends = types.SimpleNamespace(**parts)
    return module


def test_a_switch_is_set_and_read_back():
    torch = torch_with(toy=Strict())
    assert pin(torch, [row("backends.toy.flag", False)]) == {}
    assert read_back(torch, [row("backends.toy.flag")]) == {"toy.flag": "False"}


def test_a_switch_that_this_version_lacks_is_not_made():
    torch = torch_with(toy=types.SimpleNamespace())
    assert pin(torch, [row("backends.toy.flag", False), row("backends.other.flag", False)]) == {}
    assert vars(torch.backends.toy) == {}
    assert read(torch, row("backends.toy.flag")) == "unknown"
    assert read(torch, row("backends.other.level()")) == "unknown"


def test_a_switch_without_an_exact_value_is_only_read():
    torch = torch_with(toy=Strict())
    assert pin(torch, [row("backends.toy.level")]) == {}
    assert torch.backends.toy.level == 3


def test_a_reader_that_raises_gives_unknown_and_the_switch_is_set_all_the_same():
    torch = torch_with(toy=Strict())
    assert read(torch, row("backends.toy.mixed")) == "unknown"
    assert pin(torch, [row("backends.toy.mixed", 1)]) == {}
    assert torch.backends.toy.level == 1


def test_a_version_that_refuses_the_most_exact_value_gets_the_next():
    class Older(Strict):
        def __setattr__(self, name, value):
            if isinstance(value, tuple):
                raise RuntimeError("expected a bool")  # noqa: TRY004 - as torch does
            super().__setattr__(name, value)

    torch = torch_with(toy=Older())
    assert pin(torch, [row("backends.toy.flag", (False, False), False)]) == {}
    assert torch.backends.toy.flag is False


def test_a_refusal_is_told_in_the_words_of_the_first():
    class Refuses:
        flag = True

        def __setattr__(self, name, value):
            raise RuntimeError(f"no {value}\nbecause")

    assert pin(torch_with(toy=Refuses()), [row("backends.toy.flag", (False,), False)]) == {
        "toy.flag": "no (False,)"
    }


def test_functions_set_and_read_where_there_is_no_attribute():
    state = {"math": False}
    toy = types.SimpleNamespace(
        enable=lambda value: state.update(math=value), enabled=lambda: state["math"], size=lambda: None
    )
    torch = torch_with(toy=toy)
    assert pin(torch, [row("backends.toy.enabled()", True, setter="backends.toy.enable")]) == {}
    assert state == {"math": True}
    assert read(torch, row("backends.toy.enabled()")) == "True"
    assert read(torch, row("backends.toy.size()")) == "unknown"
