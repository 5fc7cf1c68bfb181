"Stop unless the notebooks are clean, and `hepebm/` and README.md are exactly what they export to; all judged on a copy."
import shutil, subprocess, sys, tempfile
from filecmp import cmp
from pathlib import Path

root = Path(__file__).resolve().parent.parent
skip = shutil.ignore_patterns('.git', '.venv', '_*site*', '_proc', '_docs', 'runs', '__pycache__', '.ipynb_checkpoints', '*.egg-info', 'build', 'bench')

def files(base, *patterns): return {p.relative_to(base) for pat in patterns for p in base.rglob(pat) if not {'.ipynb_checkpoints','__pycache__'} & set(p.parts)}

with tempfile.TemporaryDirectory() as tmp:
    copy = Path(tmp)/'hepebm'
    shutil.copytree(root, copy, ignore=skip, symlinks=True)
    subprocess.run(['git', 'init', '-q'], cwd=copy, check=True)
    for p in files(copy/'hepebm', '*.py'):
        if p.name != '__init__.py': (copy/'hepebm'/p).unlink()
    for cmd in [sys.executable, 'tools/colab.py'], ['nbdev-clean'], ['nbdev-export'], [sys.executable, 'tools/readme.py']: subprocess.run(cmd, cwd=copy, check=True, stdout=subprocess.DEVNULL)
    bad = [f'nbs/{p} is not clean: run `make prepare`, or tools/colab.py and nbdev-clean' for p in sorted(files(root/'nbs', '*.ipynb')) if not cmp(root/'nbs'/p, copy/'nbs'/p, shallow=False)]
    here, there = files(root/'hepebm', '*.py'), files(copy/'hepebm', '*.py')
    bad += [f'hepebm/{p} comes from no notebook' if p in here else f'hepebm/{p} is missing: run nbdev-export' for p in sorted(here ^ there)]
    bad += [f'hepebm/{p} differs from its notebook: run nbdev-export' for p in sorted(here & there) if not cmp(root/'hepebm'/p, copy/'hepebm'/p, shallow=False)]
    if not cmp(root/'nbs/sidebar.yml', copy/'nbs/sidebar.yml', shallow=False): bad.append('nbs/sidebar.yml misses a page: run python tools/sidebar.py')
    if not cmp(root/'README.md', copy/'README.md', shallow=False): bad.append('README.md differs from nbs/index.ipynb: run python tools/readme.py')
print('\n'.join(bad) or f'in sync: {len(here)} modules, {len(files(root/"nbs","*.ipynb"))} clean notebooks')
sys.exit(bool(bad))
