"Tokens: what the notebooks leave out — the command line, resuming, published mistakes, memory of large files"
import math
import pytest, torch
from hepebm.cli import main
from hepebm.core.arrays import Arrays
from hepebm.core.training import load_model
from hepebm.data.jets import read_jets, write_jets
from hepebm.data.samples import sample
from hepebm.nn.gpt import GPT
from hepebm.tokens.generation import JetGPT, jet_gpt, next_and_masked, next_token, rerank, sequences, unsequence
from hepebm.tokens.token_files import TokenStream, read_tokens, write_tokens
from hepebm.tokens.tokenizer import JetTokenizer, Tokens, check_tokenizer, columns, four_vectors, jet_tokenizer, reconstruction
from hepebm.tokens.transfer import balanced, starts, train_classifier

@pytest.fixture(scope='module')
def jets(): return sample('jets', 'train', 400)

@pytest.fixture(scope='module')
def tok(jets):
    torch.manual_seed(0)
    return JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2, particles=64).eval()

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp('tokens')/'run'
    assert main(['run', 'tokens', '--preset', 'smoke', '--out', str(out), '--set', 'ebm_updates=0', 'variants=', 'pfn_epochs=1', 'test=300']) == 0
    return out

def said(capsys, *args):
    code = main([*map(str, args)])
    return code, capsys.readouterr().err.strip()

def test_cli(run, jets, tmp_path, capsys):
    "A run's model writes, scores and tokenizes; what makes no sense is told in one line"
    file, words = tmp_path/'j.h5', tmp_path/'t.parquet'
    write_jets(file, Arrays(p4=jets.p4[:50], mask=jets.mask[:50]))
    assert main(['score', str(run), str(file), '-o', str(tmp_path/'s.parquet')]) == 0
    assert main(['sample', str(run), '-n', '20', '--label', '1', '-o', str(tmp_path/'new.h5')]) == 0
    assert len(read_jets(tmp_path/'new.h5')) == 20
    assert main(['tokenize', str(run), str(file), '-o', str(words)]) == 0
    tok = load_model(run/'model-tokenizer').eval()
    assert torch.equal(read_tokens(words, tok=tok).ids, tok.encode(read_jets(file)).ids)
    assert tok.identity == load_model(run/'model').tokenizer.identity
    capsys.readouterr()
    for args,contains in ((['sample', run, '-n', '3', '-o', tmp_path/'x.h5'], '--label 0'), (['sample', run, '-n', '3', '--label', '9', '-o', tmp_path/'x.h5'], '0 to 3'),
            (['sample', run, '-n', '3', '--label', '0', '--pt', '600', '-o', tmp_path/'x.h5'], '--pt'), (['tokenize', run, file, '-o', tmp_path/'x.csv'], '.parquet'), (['tokenize', tmp_path, file, '-o', tmp_path/'x.parquet'], 'no model')):
        code, err = said(capsys, *args)
        assert code == 2 and contains in err and '\n' not in err
    assert not (tmp_path/'x.h5').exists()

def test_padding_is_not_seen(jets):
    "Loss, quantiser and gradient do not depend on how much padding there is, nor on what stands in it"
    rows = columns(jets[:40], 64, 1.)
    n = int(rows.mask.sum(1).max())
    def trained(r):
        torch.manual_seed(1)
        m = JetTokenizer('vqvae', 64, width=16, depth=1, heads=2, R=1.).train()
        sum(v for v in reconstruction()(m, r).values()).backward()
        return m.quantizer.codebook.clone(), torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None])
    P = 128-rows.mask.shape[1]
    wide = rows.assign(x=torch.nn.functional.pad(rows.x, (0,0,0,P), value=50.), mask=torch.nn.functional.pad(rows.mask, (0,P)))
    a, b = trained(rows), trained(wide)
    assert torch.allclose(a[0], b[0], atol=1e-5) and torch.allclose(a[1], b[1], rtol=1e-3, atol=1e-5)

def test_cut_scales_with_R(jets):
    "|eta|, |phi| < .8 belongs to R = .8: with R, all but strays are kept"
    kept = lambda R: columns(jets, 64, R).mask.sum()/jets.mask.sum()
    assert kept(1.)>.99 and kept(.8)<.97
    with pytest.warns(UserWarning, match='pass their radius|Pass their radius'): jet_tokenizer(jets, 'bins', 64)

def test_pt_transform():
    "log pt - 1.8, angles times three at R = .8 (published), and back to 1e-5"
    p = torch.tensor([[[0.,0,0,0]]*3])
    from hepebm.data.kinematics import p4
    pt, eta, phi = torch.tensor([[100.,30,5]]), torch.tensor([[.1,-.3,.2]]), torch.tensor([[.05,.2,-.4]])
    a = Arrays(p4=p4(pt, eta, phi), mask=torch.ones(1, 3, dtype=torch.bool))
    c = columns(a, R=.8)
    assert torch.allclose(c.x[...,0], pt.log()-1.8, atol=1e-5)
    assert torch.allclose((c.x[...,1:]/3)[0].diff(dim=0), torch.stack([eta, phi], -1)[0].diff(dim=0), atol=1e-5)
    assert torch.allclose(four_vectors(c.x, c.mask, .8, c.jet_eta, c.jet_phi), a.p4, rtol=1e-4, atol=1e-4)

def test_no_lost_constituent(tok, jets):
    "Sentences and back: no jet loses its softest particle (a published mistake)"
    t = tok.encode(jets)
    u = unsequence(sequences(t).tokens, tok)
    assert torch.equal(u.mask.sum(1), t.mask.sum(1)) and torch.equal(u.ids, t.ids)

def test_loss_does_not_count_padding(tok, jets):
    "More padding leaves the surprise as it is; its size is that of real words"
    torch.manual_seed(0)
    m = JetGPT(GPT(vocab=515, width=16, depth=1, heads=2, length=100), tok)
    s = sequences(tok.encode(jets[:30]))
    wide = s.assign(tokens=torch.nn.functional.pad(s.tokens, (0,20), value=m.words.pad), mask=torch.nn.functional.pad(s.mask, (0,20)))
    assert abs(next_token(m.gpt, s)['next']-next_token(m.gpt, wide)['next'])<1e-5

def test_empty_jets(tok, jets):
    "A jet whose particles are all cut away gives no NaN, in tokens, training or surprise"
    a = jets[:8].assign(mask=jets.mask[:8].clone())
    a.mask[3] = False
    check_tokenizer(tok, a)
    torch.manual_seed(0)
    m = JetTokenizer('vqvae', 16, width=16, depth=1, heads=2, R=1.).train()
    loss = sum(reconstruction()(m, m.columns(a)).values())
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in m.parameters() if p.grad is not None)

def test_double_codes_do_not_depend_on_company(jets):
    "In double precision tokens are the same in any company and chunk"
    torch.manual_seed(0)
    m = JetTokenizer('vqvae', 256, width=16, depth=1, heads=2, R=1.).eval().double()
    rows = columns(jets.to(torch.float64), 64, 1.)
    assert torch.equal(m.encode(rows, 400).ids, m.encode(rows, 7).ids)

@pytest.mark.parametrize('which', ['masked','hybrid'])
def test_resume(tok, jets, tmp_path, which):
    "Broken off and begun again, an author ends with the same weights"
    from hepebm.core.training import Watch
    kw = lambda: dict(masked=dict(masking=True, objective=next_and_masked(seed=3)), hybrid=dict(hybrid=True))[which]
    class Stop:
        def __init__(self): self.left = 5
        def update(self, **frame):
            self.left -= 1
            if not self.left: raise KeyboardInterrupt
    train = lambda out, **trainer: jet_gpt(jets[:120], tok, width=16, depth=1, heads=2, epochs=2, size=32, out=tmp_path/out, bar=None, trainer=dict(checkpoint_every=1, **trainer), **kw())
    whole = train('whole')
    with pytest.raises(KeyboardInterrupt): train('part', callbacks=[Watch(Stop(), lambda run: {}, every=1)])
    for (k,a),b in zip(whole.state_dict().items(), train('part').state_dict().values()): assert not isinstance(a, torch.Tensor) or torch.equal(a, b), k

def test_rerank_moves_towards_the_truth():
    "Weights of an exact density ratio reproduce moments, and tell their effective number"
    g = torch.Generator().manual_seed(0)
    x = torch.randn(100_000, generator=g, dtype=torch.float64)
    r = rerank(Arrays(x=x), lambda a: 2*(a.x-.5)**2-a.x**2/2)   # to a normal of mean .5 and sigma .5
    mean = (r.weights*x).sum()
    assert abs(mean-.5)<.02 and abs((r.weights*(x-mean)**2).sum()-.25)<.02
    assert r.ess == pytest.approx(1/(r.weights**2).sum().item())
    with pytest.raises(ValueError, match='are NaN'): rerank(Arrays(x=x), lambda a: a.x*math.nan)

def test_frozen_stays_and_cached_states_are_the_same(tok, jets):
    "A frozen transformer's weights are bit-identical after training"
    m = jet_gpt(jets[:60], tok, width=16, depth=1, heads=2, epochs=1, bar=None)
    rows = m.sentences(jets)
    rows = rows.assign(label=(rows.label>0).long())
    c = starts(m)['frozen'](0)
    before = {k: v.clone() for k,v in c.gpt.state_dict().items()}
    train_classifier(c, balanced(rows, 60), balanced(rows, 40, 1), most=20, every=5)
    assert all(torch.equal(v, before[k]) for k,v in c.gpt.state_dict().items())
    with pytest.raises(ValueError, match='smallest class'): balanced(rows, 10**6)

def test_wrong_tokenizer(tok, jets):
    "A transformer refuses words of another dictionary, of another size and of the same"
    m = jet_gpt(jets[:40], tok, width=16, depth=1, heads=2, epochs=1, bar=None)
    torch.manual_seed(5)
    other = JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2).eval()
    with pytest.raises(ValueError, match='tokenizer'): m.score(other.encode(jets[:5]))
    with pytest.raises(ValueError, match='vocab'): JetGPT(m.gpt, JetTokenizer('fsq', 1024, R=1., width=16, depth=1, heads=2))
