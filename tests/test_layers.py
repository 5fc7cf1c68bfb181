"Imports point down the layers `core < data < nn < {ebm, vae, tokens, muons} < studies < cli`, or to lower numbers in their own folder."
import ast, re
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
LAYERS = dict(core=0, data=1, nn=2, ebm=3, vae=3, tokens=3, muons=3, studies=4, cli=5)
order = {(p.parent.name, m[1]): i for i,p in enumerate(sorted((root/'nbs').rglob('[0-9]*.ipynb'), key=lambda p: p.name)) if (m := re.match(r'\d+_(.+)\.ipynb', p.name))}
modules = [p.relative_to(root) for p in sorted((root/'hepebm').rglob('*.py')) if p.name not in ('__init__.py', '_modidx.py')]

def imports(source, path):
    "Absolute dotted names of the hepebm modules that `source` imports, in functions too"
    pkg = ('hepebm',) + path.parts[1:-1]
    for n in ast.walk(ast.parse(source)):
        if isinstance(n, ast.ImportFrom):
            base = '.'.join(pkg[:len(pkg)-n.level+1] + tuple((n.module or '').split('.'))) if n.level else n.module or ''
            yield base.rstrip('.')
            yield from (f'{base.rstrip(".")}.{a.name}' for a in n.names)
        elif isinstance(n, ast.Import): yield from (a.name for a in n.names)

def wrong(source, path):
    "Why an import of the module at `path` breaks the rule"
    me = path.with_suffix('').parts[1:]
    for name in imports(source, path):
        parts = name.split('.')
        if parts[0] != 'hepebm' or len(parts) < 2 or parts[1] not in LAYERS: continue
        up = LAYERS[parts[1]] - LAYERS[me[0]]
        if up > 0 or (up == 0 and parts[1] != me[0]): yield f'{".".join(me)} imports {name}: upward or sideways'
        elif parts[1] == me[0] and len(parts) > 2 and len(me) > 1 and (me[0],parts[2]) in order and order[me[0],parts[2]] >= order[me[0],me[1]]:
            yield f'{".".join(me)} imports {name}: not a lower number'

@pytest.mark.parametrize('path', modules, ids=str)
def test_layers(path): assert not list(wrong((root/path).read_text(), path))

def test_rule_bites():
    "The checker itself finds an upward, a sideways and a circular import"
    assert list(wrong('from ..ebm.samplers import chain', Path('hepebm/core/arrays.py')))
    assert list(wrong('from hepebm.vae.vae import JetVAE', Path('hepebm/ebm/jets.py')))
    assert list(wrong('def f():\n    from .training import fit', Path('hepebm/core/arrays.py')))
    assert not list(wrong('from ..core.arrays import Arrays', Path('hepebm/ebm/jets.py')))
