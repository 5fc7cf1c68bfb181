"The command line: a whole run in a folder, going on where it stopped, and mistakes told in one line."
import json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest

root = Path(__file__).resolve().parent.parent
RUN = 'run', 'jet-ebm', '--preset', 'smoke'

def start(*args, cwd=root):
    env = dict(os.environ, PYTHONPATH=str(root), IN_TEST='1', OMP_NUM_THREADS='1', MPLBACKEND='agg')
    return subprocess.Popen([sys.executable, '-c', 'import sys; from hepebm.cli import main; sys.exit(main())', *map(str, args)], env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # ^C is heard, also where the tests run in the background

def hepebm(*args, cwd=root):
    p = start(*args, cwd=cwd)
    out, err = p.communicate(timeout=300)
    return p.returncode, out, err

def until(p, f):
    while not f():
        assert p.poll() is None, p.communicate()
        time.sleep(.02)

@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    "A run that was interrupted by ^C in its training and then went on; what it said"
    folder = tmp_path_factory.mktemp('cli')
    p = start(*RUN, '--out', 'run', cwd=folder)
    until(p, (folder/'run/training/attention/warm/log.csv').exists)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    assert p.returncode==130 and err.strip().count('\n')==0 and 'same command' in err
    assert not (folder/'run/metrics.json').exists()
    code, out, err = hepebm(*RUN, '--out', 'run', cwd=folder)
    assert code==0, err
    return folder/'run', out

def test_run(smoke):
    run, out = smoke
    names = 'settings.json metrics.json report.html result.txt log.csv figures tables model model-deepset training'.split()
    assert sorted(p.name for p in run.iterdir()) == sorted(names)
    assert 'AUC' in out and out.strip().endswith('report: run/report.html')
    m = json.loads((run/'metrics.json').read_text())
    assert all(np.isfinite(v['value']) for v in m.values()) and {'auc/top/attention EBM', 'jsd/mass/DeepSet EBM', 'w1/girth/published noise'} <= m.keys()
    s = json.loads((run/'settings.json').read_text())
    assert {'study','preset','seed','settings','versions','hardware','command','data'} <= s.keys() and {'hepebm','torch','python','numpy'} <= s['versions'].keys()
    assert len(list((run/'figures').glob('*.png'))) >= 7

def test_report_stands_alone(smoke):
    from plotly.offline import get_plotlyjs
    page = (smoke[0]/'report.html').read_text(encoding='utf-8')
    assert page.count(get_plotlyjs())==1
    rest = page.replace(get_plotlyjs(), '')
    assert 'http' not in rest and 'width=device-width' in rest and rest.count('<figcaption>')==rest.count('<figure>') >= 7

def test_again(smoke):
    "The finished run is shown; other settings are refused, by name"
    from hepebm.cli import main
    run, _ = smoke
    before = {p: p.stat().st_mtime_ns for p in run.rglob('*')}
    assert main([*RUN, '--out', str(run)])==0
    assert {p: p.stat().st_mtime_ns for p in run.rglob('*')} == before

@pytest.mark.parametrize('more,words', [(['--seed','3'], 'seed is 0 there and 3 here'), (['--set','updates=5','lr=1e-3'], 'updates is'), (['--preset','laptop'], 'preset is smoke there')])
def test_other_settings(smoke, capsys, more, words):
    from hepebm.cli import main
    assert main([*RUN, '--out', str(smoke[0]), *more])==2
    err = capsys.readouterr().err
    assert words in err and '--no-resume' in err and err.count('\n')==1

def test_model_is_used(smoke, tmp_path, capsys):
    "score, sample and compare on what the run left"
    import pandas as pd
    from hepebm.cli import main
    from hepebm.data.jets import read_jets, write_jets
    from hepebm.data.samples import sample
    run, out = smoke[0], tmp_path/'s.parquet'
    a = sample('jets', 'valid', 300)
    write_jets(tmp_path/'a.h5', a)
    assert main(['score', str(run), str(tmp_path/'a.h5'), '-o', str(out)])==0
    t = pd.read_parquet(out)
    assert list(t)==['energy','p_value'] and len(t)==300
    low, high = t.p_value[(a.label==0).numpy()], t.p_value[(a.label==1).numpy()]
    assert abs(low.mean()-.5) < .1 and high.mean() < low.mean()
    for name in ('one','two'): assert main(['sample', str(run/'model'), '-n', '20', '-o', str(tmp_path/f'{name}.parquet'), '--steps', '3'])==0
    one, two = (read_jets(tmp_path/f'{name}.parquet') for name in ('one','two'))
    assert len(one)==20 and (one.p4==two.p4).all()
    assert main(['compare', str(run), str(run)])==0
    assert '0 of' in capsys.readouterr().out

BAD = [([], 0), (['--help'], 0), (['--version'], 0), (['nosuch'], 2), (['run'], 2), (['run','nosuch'], 2), (['run','jet-ebm','--nosuch'], 2), (['run','jet-ebm','--set','nosuch=1'], 2),
    (['run','jet-ebm','--set','updates'], 2), (['run','jet-ebm','--set','updates=few'], 2), (['run','jet-ebm','--preset','nosuch'], 2), (['run','jet-ebm','--seed','x'], 2), (['run','jet-ebm','--device','tpu'], 2),
    (['run','jet-ebm','--data','nosuch.h5'], 2), (['run','jet-ebm','--data','top-tagging'], 2), (['run','jet-ebm','--data','text.h5'], 2), (['run','jet-ebm','--out','text.h5'], 2), (['run','jet-ebm','--out','full'], 2),
    (['info','nosuch.h5'], 2), (['info','full'], 2), (['info','text.h5'], 2), (['download','nosuch'], 2), (['generate','nosuch','-n','3','-o','x.h5'], 2), (['generate','QCD','-n','3','-o','x.txt'], 2), (['generate','QCD','-o','x.h5'], 2),
    (['generate','QCD','-n','0','-o','x.h5'], 2), (['score','full','text.h5','-o','x.parquet'], 2), (['sample','full','-n','3','-o','x.h5'], 2), (['compare','full','full'], 2),
    (['run','jet-ebm','--devices','0'], 2), (['run','jet-ebm','--jobs','0'], 2), (['run','jet-ebm','--seed','-1'], 2), *((['run','jet-ebm','--set',s], 2) for s in 'size=0 size=None particles=0 steps=0 pool=-5 depth=-1 frames=0 test=0 bootstrap=0 generate=513 pool=511'.split()),
    *((['run','joint','--set',s], 2) for s in 'classes=QCD strange=W strange=Z weight=0. epochs=3 hidden=64 frame=axis heads=5'.split()),
    (['generate','QCD','-n','3','-o','x.h5','--R','-1'], 2), (['generate','QCD','-n','3','-o','x.h5','--jobs','0'], 2), (['sample','full','-n','3','-o','x.h5','--steps','-1'], 2)]

@pytest.mark.parametrize('args,code', BAD, ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_mistakes(tmp_path, monkeypatch, capsys, args, code):
    "One line on stderr, exit code 2, and nothing left behind"
    from hepebm.cli import main
    monkeypatch.chdir(tmp_path)
    Path('full').mkdir(); Path('full/note.txt').write_text('mine'); Path('text.h5').write_text('no jets')
    assert main(args)==code
    err = capsys.readouterr().err
    assert err.count('\n')==(1 if code else 0)
    assert Path('full/note.txt').read_text()=='mine' and not list(Path().glob('x.*')) and not list(Path().glob('runs/*'))

@pytest.mark.parametrize('name', 'run list compare generate download info score sample'.split())
def test_help(name, capsys):
    from hepebm.cli import main
    with pytest.raises(SystemExit) as e: main([name, '--help'])
    assert e.value.code==0 and f'usage: hepebm {name}' in capsys.readouterr().out

def test_start_is_quick():
    p = start('--help')
    p.communicate()
    assert p.returncode==0
    code = 'import sys, hepebm.cli as c; c.main(["--help"]); print([m for m in ("torch","numpy","pandas","plotly") if m in sys.modules])'
    out = subprocess.run([sys.executable, '-c', code], env=dict(os.environ, PYTHONPATH=str(root)), capture_output=True, text=True).stdout
    assert out.splitlines()[-1]=='[]'

def test_own_file(tmp_path):
    "Labels decide what is background; a file without is all background; the parts do not overlap"
    from hepebm.core.arrays import concat
    from hepebm.data.jets import DataError, toy_jets, write_jets
    from hepebm.studies.studies import jet_data
    a = concat([toy_jets(200, 1, seed=1), toy_jets(50, 3, seed=2)])
    write_jets(tmp_path/'a.h5', a)
    d = jet_data(tmp_path/'a.h5', seed=2)
    assert [len(d.train), len(d.valid), len(d.test)]==[140, 20, 40] and {k: len(v) for k,v in d.signals.items()}=={'class 2': 45} and {k: len(v) for k,v in d.held.items()}=={'class 2': 5}
    keys = [set(v.p4[:,0,1].tolist()) for v in (d.train, d.valid, d.test)]
    assert sum(map(len, keys))==len(set.union(*keys))==200
    write_jets(tmp_path/'b.h5', a.assign(label=a.label+1))
    with pytest.raises(DataError, match='class 0 is the background'): jet_data(tmp_path/'b.h5')
    write_jets(tmp_path/'c.h5', a[:30])
    with pytest.raises(DataError, match='too few'): jet_data(tmp_path/'c.h5')

@pytest.mark.long
def test_own_file_runs(tmp_path):
    from hepebm.data.jets import toy_jets, write_jets
    write_jets(tmp_path/'a.parquet', toy_jets(400).drop('label'))
    code, out, err = hepebm(*RUN, '--data', 'a.parquet', '--out', 'run', '--set', 'updates=4', 'warm=4', cwd=tmp_path)
    assert code==0, err
    assert not any('auc' in k for k in json.loads((tmp_path/'run/metrics.json').read_text()))

@pytest.mark.long
@pytest.mark.parametrize('when', ['attention/warm/last.ckpt', 'attention/last.ckpt', 'deepset/last.ckpt'])
def test_killed(tmp_path, smoke, when):
    "SIGKILL in training, then the same command: the same weights and metrics, bit for bit"
    p = start(*RUN, '--out', 'run', cwd=tmp_path)
    until(p, (tmp_path/'run/training'/when).exists)
    p.send_signal(signal.SIGKILL)
    assert p.wait()==-signal.SIGKILL
    p.communicate()
    code, _, err = hepebm(*RUN, '--out', 'run', cwd=tmp_path)
    assert code==0, err
    for f in ('model/model.safetensors', 'model/control.safetensors', 'model-deepset/model.safetensors', 'metrics.json', 'log.csv'):
        assert (tmp_path/'run'/f).read_bytes()==(smoke[0]/f).read_bytes(), f

SLIDER = "() => [document.getElementById('chains').data[1].x, document.querySelector('#chains .slider-label').textContent].map(v => JSON.stringify(v))"

@pytest.mark.long
@pytest.mark.parametrize('width', [1200, 400])
def test_report_in_a_browser(smoke, width):
    "Nothing is fetched, nothing is wider than the page, all figures are drawn, the slider moves the chains"
    import shutil
    sync = pytest.importorskip('playwright.sync_api', reason='needs playwright: pip install playwright')
    if not (chromium := shutil.which('chromium') or shutil.which('google-chrome')): pytest.skip('needs chromium')
    errors, asked = [], []
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu'])
        page = browser.new_page(viewport=dict(width=width, height=900))
        page.on('pageerror', lambda e: errors.append(str(e)))
        page.on('request', lambda r: asked.append(r.url))
        page.goto(f'file://{smoke[0]}/report.html')
        page.wait_for_timeout(2000)
        assert page.locator('.plot .main-svg').count() >= page.locator('.plot').count() >= 20
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        before = page.evaluate(SLIDER)
        rail = page.locator('#chains .slider-rail-touch-rect')
        rail.scroll_into_view_if_needed()
        box = rail.bounding_box()
        page.mouse.click(box['x']+box['width']-4, box['y']+box['height']/2)
        page.wait_for_timeout(800)
        assert all(a!=b for a,b in zip(before, page.evaluate(SLIDER)))
        browser.close()
    assert not errors and len(asked)==1

def test_toys(tmp_path):
    "The study of toys: interrupted, gone on with, the same again elsewhere to the bit, in one process or two; its models are named where jets are asked for"
    RUN = 'run', 'toys', '--preset', 'smoke', '--set', 'toys=moons', 'updates=30'
    p = start(*RUN, '--out', 'a', '--jobs', 1, cwd=tmp_path)
    until(p, (tmp_path/'a/training/moons-nce-0/result.json').exists)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=60)
    assert p.returncode==130 and not (tmp_path/'a/metrics.json').exists()
    stamp = (tmp_path/'a/training/moons-nce-0/result.json').stat().st_mtime_ns
    code, out, err = hepebm(*RUN, '--out', 'a', '--jobs', 1, cwd=tmp_path)
    assert code==0 and '3 of 3' in out and 'Divergence of the model' in out, err
    assert (tmp_path/'a/training/moons-nce-0/result.json').stat().st_mtime_ns==stamp
    code, out, err = hepebm(*RUN, '--out', 'b', '--jobs', 2, cwd=tmp_path)
    assert code==0, err
    a,b = ({k: v for k,v in json.loads((tmp_path/d/'metrics.json').read_text()).items() if not k.startswith('seconds/')} for d in 'ab')
    assert a==b and {'kl/moons/nce', 'mmd_chains/moons/persistent', 'least/moons/denoising'} <= a.keys()
    code, out, err = hepebm('compare', 'a', 'b', cwd=tmp_path)
    assert code==0 and 'kl/moons/nce' in out
    code, out, err = hepebm('sample', 'a', '-n', 3, '-o', 'x.h5', cwd=tmp_path)
    assert code==2 and 'name one, as a/model/moons-' in err
    code, out, err = hepebm('sample', 'a/model/moons-nce-0', '-n', 3, '-o', 'x.h5', cwd=tmp_path)
    assert code==2 and 'not a model of jets' in err

def test_joint(tmp_path):
    "The joint classifier: twice the same to the bit; its model scores and samples"
    RUN = 'run', 'joint', '--preset', 'smoke', '--set', 'longer=1', 'updates=4', 'warm=4'
    for d in 'ab':
        code, out, err = hepebm(*RUN, '--out', d, cwd=tmp_path)
        assert code==0 and 'AUC of H jets' in out, err
    a,b = (json.loads((tmp_path/d/'metrics.json').read_text()) for d in 'ab')
    assert a==b and {'accuracy/EBM-CLF', 'ece/classifier', 'strange/all/EBM-CLF: energy', 'jsd/mass/top/made'} <= a.keys()
    assert (tmp_path/'a/model/model.safetensors').read_bytes()==(tmp_path/'b/model/model.safetensors').read_bytes()
    code, out, err = hepebm('sample', 'a', '-n', 3, '-o', 'x.h5', '--steps', 2, cwd=tmp_path)
    assert code==0, err
    code, out, err = hepebm('score', 'a', 'x.h5', '-o', 'x.parquet', cwd=tmp_path)
    assert code==0 and '3 events' in out, err
