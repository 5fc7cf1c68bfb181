"Notebooks are chapters: named, opened in Colab, free of errors, small, with prose and checks."
import ast, builtins, importlib, json, re
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
nbs = [p for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts and not p.name.startswith('_')]
heavy = 'image/png image/jpeg image/svg+xml application/vnd.plotly.v1+json text/html'.split()

inner = ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp

def outer(node):
    "Nodes outside the bodies of functions, classes and comprehensions"
    yield node
    if not isinstance(node, inner):
        for n in ast.iter_child_nodes(node): yield from outer(n)

def bound(nodes):
    "Names that these nodes define"
    for n in nodes:
        if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load): yield n.id
        elif isinstance(n, (ast.FunctionDef, ast.ClassDef)): yield n.name
        elif isinstance(n, ast.arg): yield n.arg
        elif isinstance(n, ast.alias): yield (n.asname or n.name).split('.')[0]
        if isinstance(n, ast.ImportFrom) and n.names[0].name=='*': yield from dir(importlib.import_module(n.module))

def missing(sources):
    "The docs run cells that are exported or hold an import, and no others: (cell, names it takes from cells that are not run)"
    known = set(dir(builtins)) | {'show_doc', 'display', 'get_ipython'}
    for s in sources:
        if '#| eval: false' in s or re.search(r'^ *[%!]', s, re.M): continue
        tree, exported = ast.parse(s), '#| export' in s
        if not exported and not any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(tree)): continue
        known |= set(bound(outer(tree)))
        used = {n.id for t in tree.body if not isinstance(t, (ast.FunctionDef, ast.ClassDef)) for n in ast.walk(t) if isinstance(n, ast.Name)} - set(bound(ast.walk(tree)))
        if not exported and used - known: yield s.splitlines()[0], sorted(used - known)

def problems(nb, path):
    "What a reviewer would send back"
    cells = nb['cells']
    code = [c for c in cells if c['cell_type']=='code']
    src = [''.join(c['source']) for c in code]
    text = '\n'.join(''.join(c['source']) for c in cells)
    if 'colab.research.google.com' not in text: yield 'no Colab badge (tools/colab.py writes it)'
    if not any('%pip install' in s and '#| eval: false' in s for s in src): yield 'no Colab install cell (tools/colab.py writes it)'
    first = next((''.join(c['source']) for c in cells if c['cell_type']=='markdown'), '')
    if not re.fullmatch(r'# .+\n+> .+\s*', first): yield 'first text cell is not a title with a one-line summary and no more (the docs show no more of it)'
    for c in code:
        if any(o['output_type']=='error' for o in c['outputs']): yield f'cell {c.get("id")} holds an error'
        size = sum(len(json.dumps(o.get('data',{}).get(k,''))) for o in c['outputs'] for k in heavy)
        if size > 400_000: yield f'cell {c.get("id")} stores {size} bytes of output'
    total = sum(len(json.dumps(c['outputs'])) for c in code)
    if total > 1_500_000: yield f'outputs of {total} bytes'
    for first,names in missing(src): yield f'imports and code in one cell ({first}): the docs run it without {names}; give the imports a cell of their own'
    long = [c.get('id') for c,s in zip(code,src) if len(s.splitlines())>60]
    if long: yield f'cells longer than 60 lines: {long}'
    if any('#| export' in s for s in src):
        if not any(re.search(r'\bassert\b|\btest_\w+\(|expect_fail|assert_close|check_\w+\(', s) for s in src): yield 'exports without a check'
        if len([c for c in cells if c['cell_type']=='markdown']) < .4*len(code): yield 'little prose'

@pytest.mark.parametrize('path', nbs, ids=lambda p: str(p.relative_to(root/'nbs')))
def test_hygiene(path): assert not list(problems(json.loads(path.read_text()), path))

def test_numbers_are_unique():
    "Numbers run through the whole book"
    ns = [m[1] for p in nbs if (m := re.match(r'(\d+)_', p.name))]
    assert len(ns) == len(set(ns))
