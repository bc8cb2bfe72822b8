"""Distributions written to disk as pip leaves them."""

import json

from actionkit import registry


class Site:
    """A folder on sys.path, before all others."""

    def __init__(self, folder):
        self.folder = folder

    def install(
        self, name, points=None, *, version="1.0", requires=(), code=None, direct_url=None, top=""
    ):
        """A dist-info folder, and a module of the distribution's name if there is code."""
        module = name.lower().replace("-", "_")
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        (info / "METADATA").write_text(text)
        lines = []
        for group, names in (points or {}).items():
            lines += [f"[{group}]", *(f"{n} = {target}" for n, target in names.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        if direct_url is not None:
            (info / "direct_url.json").write_text(json.dumps(direct_url))
        if top:
            (info / "top_level.txt").write_text(top + "\n")
        if code is not None:
            (self.folder / f"{module}.py").write_text(code)

    def editable(self, name, source, points=None, **options):
        """The same, as `pip install -e SOURCE` leaves it."""
        url = {"url": source.as_uri(), "dir_info": {"editable": True}}
        self.install(name, points, direct_url=url, **options)


def fresh(tmp_path, monkeypatch):
    """A site, with the registry read afresh before and after: `site = pytest.fixture(fresh)`."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    registry.entries.cache_clear()
    yield Site(folder)
    monkeypatch.undo()
    registry.entries.cache_clear()


def rows(check, name=None):
    """The results of a check, or those of a name; each that is not ok says what to type."""
    results = list(check())
    for result in results:
        assert bool(result.cure) == (result.state != "ok"), result
        assert result.text
    return [r for r in results if name in (None, r.name)]
