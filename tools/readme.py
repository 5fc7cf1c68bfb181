"Write README.md from nbs/index.ipynb, without Quarto."
import json, re
from pathlib import Path

root = Path(__file__).resolve().parent.parent

def local(s): return re.sub(r'\]\((?!https?:|#|/)([\w/.-]+\.ipynb)', r'](nbs/\1', s)
def text(outs): return ''.join(''.join(o.get('text', o.get('data', {}).get('text/plain', ''))) for o in outs)

def parts(nb):
    "Markdown cells as they are, code fenced, its text output below; cells marked hide are left out"
    for c in nb['cells']:
        s = ''.join(c['source'])
        if c['cell_type']=='markdown': yield local(s)
        elif c['cell_type']=='code' and not re.search(r'^#\|\s*(hide|include: false)', s, re.M):
            yield f"```python\n{re.sub(r'^#[|].*' + chr(10), '', s, flags=re.M).strip()}\n```"
            if out := text(c['outputs']).rstrip(): yield f'```\n{out}\n```'

nb = json.loads((root/'nbs'/'index.ipynb').read_text(encoding='utf-8'))
(root/'README.md').write_text('\n\n'.join(p.strip() for p in parts(nb)) + '\n', encoding='utf-8')
