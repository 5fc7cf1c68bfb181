"Notebooks are chapters: named, opened in Colab, free of errors, small, with prose and checks."
import json, re
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
nbs = [p for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts and not p.name.startswith('_')]
heavy = 'image/png image/jpeg image/svg+xml application/vnd.plotly.v1+json text/html'.split()

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
