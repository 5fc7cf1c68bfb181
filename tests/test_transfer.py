"Transfer: what the notebooks leave out — devices, bad input, pairing, resuming"
import copy, math, re
from pathlib import Path
import numpy as np, pytest, torch
from hepebm.core.metrics import auc
from hepebm.core.training import load_model, save_model
from hepebm.data.jets import DataError
from hepebm.data.samples import sample
from hepebm.studies.studies import compare, read_json, run_study, settings_of
from hepebm.studies import transfer as study
from hepebm.tokens.generation import jet_gpt
from hepebm.tokens.tokenizer import JetTokenizer
from hepebm.tokens.transfer import Classifier, accuracy_by_size, balanced, fresh, half_width, linear_probe, looked_at, paired, probabilities, starts, train_classifier

@pytest.fixture(scope='module')
def jets(): return sample('jets', 'train', 400)

@pytest.fixture(scope='module')
def tok():
    torch.manual_seed(0)
    return JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2, particles=24).eval()

@pytest.fixture(scope='module')
def author(jets, tok): return jet_gpt(jets[:100], tok, width=16, depth=1, heads=2, epochs=1, bar=None)

@pytest.fixture(scope='module')
def rows(author, jets):
    r = author.sentences(jets)
    return r.assign(label=(r.label>0).long())

@pytest.mark.parametrize('head', ['sum','attention'])
def test_all_on_the_device_of_the_author(author, head):
    "Heads, copies and networks from scratch are where the transformer is"
    there = copy.deepcopy(author)
    there.gpt.to('meta')
    for name,make in starts(there, head=head).items():
        m = make(0)
        assert {p.device.type for p in m.parameters()}=={'meta'}, name
    assert {p.device.type for p in Classifier(author, head=head).parameters()}=={'cpu'}

def test_scratch_begins_where_the_author_did(tok, jets):
    "Before its first update an author is what `fresh` makes; random words differ from it in the words alone"
    with pytest.MonkeyPatch.context() as p:
        p.setattr('hepebm.tokens.generation.fit', lambda *a, **k: None)
        first = jet_gpt(jets[:20], tok, width=16, depth=1, heads=2, epochs=1, seed=3, bar=None)
    own, random = fresh(first, 3).state_dict(), fresh(first, 3, random=True).state_dict()
    assert all(torch.equal(v, own[k]) for k,v in first.gpt.state_dict().items())
    assert {k for k in own if not torch.equal(own[k], random[k])}=={'embed.weight','head.weight'}
    assert not torch.equal(fresh(first, 4).embed.weight, own['embed.weight'])
    with pytest.raises(ValueError, match='JetGPT'): fresh(first.gpt)

def test_hybrid_has_no_random_words(tok, jets):
    m = jet_gpt(jets[:40], tok, width=16, depth=1, heads=2, epochs=1, hybrid=True, bar=None)
    assert [*starts(m)]==['scratch','fine-tuned','frozen']
    rows = m.sentences(jets[:60])
    rows = rows.assign(label=(rows.label>0).long())
    c = starts(m)['frozen'](0)
    assert torch.allclose(c.eval()(looked_at(c, rows)), c(rows), atol=1e-5)

def test_order_and_trimming_do_not_change_answers(author, rows):
    "Rows are looked at from short to long, and answers come in the order of the rows"
    m = Classifier(author).eval()
    with torch.no_grad(): plain = m(rows).softmax(-1)
    assert torch.allclose(probabilities(m, rows, 7), plain, atol=1e-6)
    assert torch.allclose(probabilities(m, rows[torch.arange(len(rows)-1, -1, -1)], 32).flip(0), plain, atol=1e-6)
    f = Classifier(author, freeze=True).eval()
    with torch.no_grad(): h = f.hidden(rows)
    assert torch.allclose(looked_at(f, rows, 7).h[rows.mask], h[rows.mask], atol=1e-5)

def test_probe_reads_means(author, rows):
    "The probe is the logistic regression on means of all hidden states"
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    f = Classifier(author, freeze=True).eval()
    with torch.no_grad(): x = (f.hidden(rows)*rows.mask[...,None]).sum(1)/rows.mask.sum(1, keepdim=True)
    one, two = slice(0, 200), slice(200, 400)
    p = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x[one], rows.label[one]).predict_proba(x[two])
    r, y = linear_probe(author, rows[one], rows[two]), rows.label[two].numpy()
    assert r['auc']==pytest.approx(auc(p[:,1], y==1), abs=1e-3)
    assert r['test_loss']==pytest.approx(-sum(np.log(p[y==k,k]).mean() for k in (0,1))/2, abs=1e-3)

def test_frozen_with_and_without_cache(author, rows):
    "What does not fit is computed again, with the same result"
    out = []
    for room in (2**30, 0):
        m = starts(author)['frozen'](0)
        out.append((train_classifier(m, balanced(rows, 60), balanced(rows, 40, 1), most=20, every=5, cache=room), m.head.out.weight))
    assert out[0][0]==pytest.approx(out[1][0], abs=1e-5) and torch.allclose(out[0][1], out[1][1], atol=1e-4)

def test_no_hidden_states_beyond_the_limit(author, rows, monkeypatch):
    "With no room nothing is stored: neither in training nor by the probe"
    monkeypatch.setattr('hepebm.tokens.transfer.looked_at', lambda *a: pytest.fail('stored'))
    train_classifier(starts(author)['frozen'](0), balanced(rows, 20), balanced(rows, 20, 1), most=4, every=2, cache=1000)
    linear_probe(author, rows[:100], rows[100:200])

def test_bad_input(author, rows, jets):
    few, some = balanced(rows, 40), balanced(rows, 20, 1)
    for k,shown in ((1, 'label 2'), (-1, 'label -1')):
        with pytest.raises(ValueError, match=shown): train_classifier(Classifier(author), few.assign(label=few.label+k), some)
        with pytest.raises(ValueError, match='valid has '+shown): train_classifier(Classifier(author), few, some.assign(label=some.label+k))
    with pytest.raises(ValueError, match='train has no jets'): train_classifier(Classifier(author), few[:0], some)
    with pytest.raises(ValueError, match='lr=0'): train_classifier(Classifier(author), few, some, lr=0)
    for k,name in enumerate(('train','valid')):
        with pytest.raises(ValueError, match=f'{name} has no label'): train_classifier(Classifier(author), *[r.drop('label') if i==k else r for i,r in enumerate((few, some))])
    with pytest.raises(ValueError, match='no label'): balanced(rows.drop('label'), 20)
    for f in (lambda m: probabilities(m, jets[:5]), lambda m: m(jets[:5]), lambda m: looked_at(m, jets[:5])):
        with pytest.raises(ValueError, match=r'pass author\.sentences\(jets\)'): f(Classifier(author))
    broken = Classifier(author)
    with torch.no_grad(): broken.head.out.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match='nan'): train_classifier(broken, few, some, most=4, every=2)

def test_words_of_another_tokenizer(jets, author, rows, tmp_path):
    "Refused by classifiers new, saved and from all starts, frozen or free, wherever sentences go in"
    torch.manual_seed(1)
    other = JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2, particles=24).eval()
    b = jet_gpt(jets[:40], other, width=16, depth=1, heads=2, epochs=1, bar=None)
    wrong = b.sentences(jets)
    wrong = wrong.assign(label=(wrong.label>0).long())
    save_model(tmp_path/'c', Classifier(author, freeze=True))
    for m in (*(make(0) for make in starts(author).values()), load_model(tmp_path/'c')):
        m(rows[:4])
        for f in (lambda: m(wrong), lambda: probabilities(m, wrong), lambda: looked_at(m, wrong), lambda: train_classifier(m, wrong, rows), lambda: train_classifier(m, rows, wrong)):
            with pytest.raises(ValueError, match=f'sentences of tokenizer {other.identity} for a classifier of {author.tokenizer.identity}'): f()
    with pytest.raises(ValueError, match='sentences of tokenizer'): linear_probe(author, rows, wrong)
    Classifier(author.gpt)(wrong[:4])  # nothing is known of a bare network

def test_an_author_of_one_class(tok, jets):
    "Knows a label that says nothing; more than one is refused"
    background = jets.assign(label=torch.zeros(len(jets), dtype=torch.long))
    one = jet_gpt(background[:40], tok, width=16, depth=1, heads=2, epochs=1, classes=1, bar=None)
    rows = one.sentences(jets).assign(label=(jets.label>0).long())
    h = one.gpt.hidden(rows.tokens, rows.mask, label=background.label)
    c = Classifier(one).eval()
    assert torch.allclose(c.hidden(rows)[rows.mask], h[rows.mask], atol=1e-5)
    assert {*starts(one)}=={'scratch','random words','fine-tuned','frozen'} and 'auc' in linear_probe(one, rows[:200], rows[200:])
    with pytest.raises(ValueError, match='told the class'): Classifier(jet_gpt(jets[:40], tok, width=16, depth=1, heads=2, epochs=1, classes=4, bar=None))

def test_same_subsets_and_same_budget(author, rows, monkeypatch):
    "All networks see the same jets and try as many rates, and each trains with its best"
    seen = []
    def train(model, part, valid, lr, seed=0, **kw):
        seen.append((part.tokens.sum().item(), lr, seed))
        return abs(lr-.2)
    monkeypatch.setattr('hepebm.tokens.transfer.train_classifier', train)
    makes = starts(author)
    t = accuracy_by_size(makes, rows, rows[:40], rows[:60], (20,), seeds=3, rates=(.1,.2,.3))
    assert set(t.rate)=={.2} and len(t)==12
    assert len(seen)==len(makes)*(3+2) and all(len({s for s,_,k in seen if k==seed})==1 for seed in range(3))

def test_half_width():
    "Student's t for as many values as there are: 2.776 standard errors of five, 4.303 of three"
    import pandas as pd
    for n,t in ((5, 2.776), (3, 4.303), (10, 2.262)):
        x = pd.Series(torch.randn(n, generator=torch.Generator().manual_seed(n)).numpy())
        assert half_width(x)==pytest.approx(t*x.std()/n**.5, rel=1e-3)

_small = dict(sizes='20', seeds=2, updates=4, every=2, train=300, test=150, valid=30, rates='0.001')

@pytest.fixture(scope='module')
def run(tmp_path_factory): return run_study('transfer', preset='smoke', out=tmp_path_factory.mktemp('transfer')/'run', change=_small)

def test_run_again(run, monkeypatch):
    "What is there is not trained again; what is not comes out the same, number by number"
    before = read_json(run/'metrics.json')
    (run/'metrics.json').unlink()
    with monkeypatch.context() as m:
        m.setattr(study, 'accuracy_by_size', lambda *a, **k: pytest.fail('trained again'))
        run_study('transfer', preset='smoke', out=run, change=_small)
    assert read_json(run/'metrics.json')==before
    (run/'metrics.json').unlink()
    for f in (run/'training').glob('curves-*'): f.unlink()
    run_study('transfer', preset='smoke', out=run, change=_small)
    assert read_json(run/'metrics.json')==before

def test_numbers_of_a_run(run):
    "Metrics are those of the runs; two errors are the 95 % interval; the text says how many jets were used"
    import pandas as pd
    t, m = pd.read_csv(run/'tables'/'runs.csv'), read_json(run/'metrics.json')
    d = paired(t, 'fine-tuned', of='auc')
    for n in d.index: assert m[f'gain/auc/fine-tuned/next/{n}']['value']==pytest.approx(d.difference[n]) and 2*m[f'gain/auc/fine-tuned/next/{n}']['error']==pytest.approx(d.interval[n])
    assert set(t.name)=={'scratch','random words','fine-tuned','frozen'}
    report = (run/'report.html').read_text()
    assert '30 labelled validation jets' in report and report.count('<li>next, ')==len(d)*3
    assert f'in equal parts are used, {d.index[-1]:,} (' in report and 'not one standard deviation' in report and 'flatters' in report
    assert not compare(run, run).beyond.any()

def test_a_run_scores_jets(run, tmp_path):
    "Its author leaves a control sample: validation jets of the first class, whose p-values are flat"
    import pandas as pd
    from hepebm.cli import main
    from hepebm.core.arrays import load
    from hepebm.data.jets import write_jets
    a = sample('jets', 'valid')
    write_jets(tmp_path/'a.h5', a[a.label==0])
    assert main(['score', str(run), str(tmp_path/'a.h5'), '-o', str(tmp_path/'s.parquet')])==0
    t, control = pd.read_parquet(tmp_path/'s.parquet'), load(run/'model'/'control.safetensors').score
    assert len(control)==int((a.label==0).sum()) and np.allclose(t.score, control, atol=1e-3) and .49<t.p_value.mean()<.51

def test_classes_of_a_file(tmp_path):
    "Names that are not there: what there is and what to type; one class: no word of a file that is not"
    from hepebm.data.jets import write_jets
    write_jets(tmp_path/'mine.h5', sample('jets', 'test', 900))
    def refused(classes, data=None): return lambda: run_study('transfer', data=data, preset='smoke', out=tmp_path/'run', change=dict(classes=classes))
    with pytest.raises(ValueError, match=r'--set "classes=class 0,class 3", or take all, --set classes=$'): refused('QCD,top', tmp_path/'mine.h5')()
    for classes in ('QCD', 'QCD,QCD'):
        with pytest.raises(ValueError, match=f'^classes={classes}: expected two or more'): refused(classes)()
    write_jets(tmp_path/'plain.h5', sample('jets', 'test', 900).drop('label'))
    with pytest.raises(DataError, match='plain.h5: one class .* needs labels'): refused('QCD,top', tmp_path/'plain.h5')()

def test_one_code_is_refused():
    with pytest.raises(ValueError, match='codes=1: .*2 or more'): settings_of('transfer', 'smoke', codes=1)

def test_what_is_said():
    "Better, worse, or not to be told apart; and how much of the way the codes alone make"
    import pandas as pd
    def said(tuned, spread):
        base = {'scratch': .8, 'random words': .7, 'fine-tuned': tuned}
        rows = [dict(name=k, how=k, variant='next', size=100, seed=i, accuracy=v+(i-2)*spread*(k=='fine-tuned'), auc=v, test_loss=1-v) for k,v in base.items() for i in range(5)]
        return '\n'.join(study._shown(study._gains(pd.DataFrame(rows))))
    text = said(.85, .001)
    assert 'accuracy: fine-tuned is better than scratch (+0.050' in text and 'test loss: fine-tuned is better than scratch (-0.050' in text and '67%' in text
    assert 'accuracy: fine-tuned is not to be told from scratch' in said(.85, .1)
    assert 'accuracy: fine-tuned is worse than scratch' in said(.75, .001)

def test_paper_keeps_five_seeds():
    for preset in ('laptop','paper'): assert settings_of('transfer', preset)['seeds']>=5
    assert {100,1000} <= {*map(int, settings_of('transfer', 'laptop')['sizes'].split(','))}

nbs = Path(__file__).resolve().parent.parent/'nbs'

@pytest.mark.parametrize('path', sorted((nbs/'gallery').glob('*.ipynb')), ids=lambda p: p.stem)
def test_gallery(path):
    "Shown in the book and not run by the tests; complete, small, and its commands are understood"
    import json, shlex
    import hepebm.studies.joint, hepebm.studies.vae
    cells = json.loads(path.read_text())['cells']
    assert (path.parent/'.notest').exists() and f'gallery/{path.name}' in (nbs/'sidebar.yml').read_text()
    code = [c for c in cells if c['cell_type']=='code' and 'eval: false' not in ''.join(c['source'])]
    shown = [c for c in code if re.match(r"(table|pd|figure|Image)\b", ''.join(c['source']).splitlines()[-1])]
    assert shown and all(c['outputs'] for c in shown) and len(path.read_bytes())<450_000
    lines = [l for c in cells if c['cell_type']=='markdown' for l in ''.join(c['source']).splitlines() if l.startswith('hepebm run ')]
    assert lines
    for l in lines:
        words = shlex.split(l, comments=True)[2:]
        preset, sets = words[words.index('--preset')+1], words[words.index('--set')+1:] if '--set' in words else []
        settings_of(words[0], preset, **dict(s.split('=', 1) for s in sets))

def test_gallery_of_transfer_is_there(): assert (nbs/'gallery'/'transfer.ipynb').exists()
