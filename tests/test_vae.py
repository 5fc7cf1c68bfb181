"Autoencoders beyond what their notebooks show: resuming, devices of the parts, the mistakes of published code"
from functools import partial
import pytest, torch
from hepebm.core.arrays import Arrays, Scaler, load
from hepebm.core.metrics import distance_corr
from hepebm.core.training import Watch, load_model, read_log
from hepebm.data.kinematics import jet, ptetaphim
from hepebm.data.samples import sample
from hepebm.vae import vae as chapter
from hepebm.vae.disco import disco, mass_weights
from hepebm.vae.outliers import outlier_exposure
from hepebm.vae.vae import JetVAE, elbo, elbo_score, jet_vae, kl_score, log_likelihood, norm_score, reconstruction_score, standard_beta

def jets(label, n=120):
    a = sample('jets', 'train')
    return a[a.label==label][:n]

class Stop:
    "A view that breaks off a training"
    def __init__(self, after): self.left = after
    def update(self, **frame):
        self.left -= 1
        if not self.left: raise KeyboardInterrupt

def objectives(m):
    out = m.inputs(jets(2, 50))
    late = lambda t: min(1., t/5)
    return dict(beta=elbo(.1, schedule=late, free=.01), disco=disco(elbo(.1), lam=3., schedule=late), oe=outlier_exposure(elbo(.1), out, kind='mse-sigmoid', weight=mass_weights(out.mass, m.inputs(jets(0)).mass), schedule=late))

@pytest.mark.parametrize('name', ['beta','disco','oe'])
@pytest.mark.parametrize('encoder', ['mlp','attention'])
def test_resume(name, encoder, tmp_path):
    "Broken off and begun again it ends with the same weights: schedules, codes and draws of outliers go on where they were"
    train = lambda out, **more: jet_vae(jets(0), lambda m: objectives(m)[name], epochs=2, size=40, encoder=encoder, width=8, bar=None, checkpoint_every=1, out=tmp_path/out, **more).state_dict()
    whole = train('whole')
    with pytest.raises(KeyboardInterrupt): train('part', callbacks=[Watch(Stop(4), lambda run: {}, every=1)])
    for _ in range(2):
        for k,v in train('part').items(): assert torch.equal(v, whole[k]), k

def test_sizes_are_as_asked():
    "The published OE script swaps latent size and name, and trains 64 numbers"
    m = JetVAE(latent=7)
    assert m.encode(torch.zeros(2,20,4), torch.ones(2,20).bool())[0].shape==(2,7)

def test_lstm_is_not_bounded():
    "The published LSTM ends in a tanh, which four-vectors do not"
    m = JetVAE(encoder='lstm').fit(jets(0))
    with torch.no_grad(): m.decoder.head.bias.fill_(5.)
    assert m.decode(torch.zeros(1,10), torch.ones(1,20).bool()).min() > 1.

def test_margin_of_kl_is_of_the_sum():
    "Per number of the code, as published, a margin of 1 is one of 10 on the sum"
    m = JetVAE().fit(jets(0))
    b = m.inputs(jets(0, 60))
    each, total = (outlier_exposure(elbo(.1), b, kind=k, margin=5., lam=1.)(m, b)['outliers'] for k in ('kl-each','kl'))
    assert abs(each-5) < .5 and abs(total-5) < 1.  # the same jets on both sides: what is left is the margin

def test_any_last_batch():
    "A partial batch draws as many codes and outliers as it has jets"
    m = JetVAE().fit(jets(0))
    b = m.inputs(jets(0, 7))
    for o in objectives(m).values(): assert all(v.isfinite() for v in o(m, b).values())

def test_gradients_reach_every_weight():
    for encoder in ('mlp','lstm','attention'):
        m = JetVAE(encoder=encoder).fit(jets(0))
        b = m.inputs(jets(0, 30))
        for o in objectives(m).values():
            m.zero_grad()
            sum(v for k,v in o(m, b).items() if k[0]!='_').backward()
            assert all(p.grad is not None and p.grad.abs().sum()>0 for p in m.parameters()), encoder

ENCODERS = 'mlp','lstm','attention'

def few(n=60, slots=7):
    "Jets of a few particles each"
    a = jets(0, n)
    return Arrays(p4=a.p4, mask=a.mask&(torch.arange(a.mask.shape[1])<slots))

@pytest.mark.parametrize('left', [1, 3, 19])
def test_decorrelation_with_a_short_last_batch(left):
    "What is left of an epoch may be too little for a distance correlation"
    m = jet_vae(jets(0, 20+left), disco(elbo(.1), lam=3.), epochs=2, size=20, bar=None)
    assert all(p.isfinite().all() for p in m.parameters())

def test_a_jet_keeps_a_particle():
    "Also where the decoder puts all of them far from the axis"
    m = JetVAE(aligned=False).fit(jets(0))
    a, whole = (chapter.sample(m, 60, beta=.1, reach=r) for r in (1e-9, 1e9))
    assert (a.mask.sum(1)==1).all()
    assert torch.equal(ptetaphim(a.p4).pt.amax(1), torch.where(whole.mask, ptetaphim(whole.p4).pt, 0).amax(1))

@pytest.mark.parametrize('own', [dict(), dict(scale_pt=True), dict(aligned=False)])
def test_pt_is_that_of_the_jet(own):
    "Of what was decoded, less the particles that were left out"
    for beta in (None, .1):
        a = chapter.sample(JetVAE(**own).fit(jets(0)), 60, beta=beta)
        torch.testing.assert_close(a.jet_pt, ptetaphim(jet(a.p4, a.mask)).pt)

def plain(model, batch): return dict(elbo(.1)(model, batch))

def scaled(model, batch, by=1.): return {k: by*v for k,v in plain(model, batch).items()}

@pytest.mark.parametrize('objective', [plain, partial(scaled, by=2.), lambda m: plain, lambda m: elbo(.1), elbo(.1)])
def test_objectives(objective):
    "A function of model and batch, or one of the model that gives such a function"
    m = jet_vae(jets(0), objective, epochs=1, bar=None)
    assert m.beta==torch.tensor(.1)

def test_beta_is_that_of_the_objective():
    a = jets(0)
    for o,beta in ((elbo(.5), .5), (lambda m: disco(elbo(.5), lam=1.), .5), (elbo(2., standard=True), .5), (lambda m: outlier_exposure(elbo(.5), m.inputs(jets(2, 50))), .5), (None, .1)):
        m = jet_vae(a, o, epochs=1, bar=None)
        torch.testing.assert_close(m.beta, torch.tensor(beta))
        with torch.no_grad(): torch.testing.assert_close(m.score(a), elbo_score(m, a, beta))
    with pytest.raises(ValueError, match='0.5 as published'): jet_vae(a, elbo(2., standard=True), beta=.1, epochs=1, bar=None)

def test_decorrelated_is_the_score_that_tags():
    m = JetVAE().fit(jets(0))
    m.beta.fill_(500.)
    b = m.inputs(jets(0))
    with torch.no_grad():
        s = elbo_score(m, b, 500.)
        assert abs(disco(elbo(500.), lam=1.)(m, b)['disco'].item()-distance_corr(s, b.mass, True)) < 1e-4
        assert abs(distance_corr(s, b.mass, True)-distance_corr(elbo_score(m, b, .1), b.mass, True)) > 1e-3

def test_free_nats():
    "Less than is free costs what is free, and has no gradient"
    m = JetVAE().fit(jets(0))
    b = m.inputs(jets(0))
    dear, cheap = (elbo(.1, free=f)(m, b)['kl'] for f in (50., 0.))
    assert abs(dear.item()-.1*50) < 1e-4 and cheap < dear/10
    dear.backward()
    assert all(p.grad is None or not p.grad.any() for p in m.encoder.parameters())

@pytest.mark.parametrize('encoder', ENCODERS)
def test_padding(encoder):
    "What stands in it changes neither scales nor codes nor scores"
    a = few()
    junk = a.assign(p4=torch.where(a.mask[...,None], a.p4, 1e4))
    torch.manual_seed(0)
    m = JetVAE(encoder=encoder)
    want = m.fit(a).score(a)
    assert torch.equal(m.fit(junk).score(junk), want)

def test_lstm_reads_the_last_particle():
    "And not the last slot: more slots change nothing"
    m = JetVAE(encoder='lstm').fit(few())
    b = m.inputs(few())
    for u,v in zip(m.encode(b.x, b.mask), m.encode(b.x[:,:7], b.mask[:,:7])): torch.testing.assert_close(u, v)

def test_attention_knows_slots():
    "Every slot has scales of its own: the same numbers in another slot are another particle"
    m = JetVAE(encoder='attention').fit(jets(0))
    b = m.inputs(jets(0))
    assert (m.encode(b.x, b.mask)[0]-m.encode(b.x.flip(1), b.mask.flip(1))[0]).abs().max() > 1e-3

def test_scales_are_of_particles():
    "Slots that are seldom filled have the quartiles of what is in them, the empty ones those of the one before"
    a = few(120)
    a = a.assign(mask=a.mask & ((torch.arange(a.mask.shape[1])<5) | (torch.arange(len(a))%3==0)[:,None]))
    m = JetVAE().fit(a)
    raw, center, scale = m._raw(a), m.scaler.center.reshape(20,4), m.scaler.scale.reshape(20,4)
    s = Scaler('robust').fit(raw.x[:,6][raw.mask[:,6]])
    torch.testing.assert_close(center[6], s.center), torch.testing.assert_close(scale[6], s.scale)
    assert torch.equal(scale[7:], scale[6].expand(13, 4)) and torch.equal(center[7:], center[6].expand(13, 4))

def test_scales_go_where_the_model_is():
    m = JetVAE().to('meta').fit(jets(0))
    assert m.scaler.center.is_meta and m.scaler.scale.is_meta

def test_error_in_gev():
    "The root of the mean square of the distance between momenta, over particles"
    m = JetVAE().fit(jets(0))
    a = few(30)
    b = m.inputs(a)
    with torch.no_grad():
        p, q = m.jets(b.x, b.mask, b.pt).p4[...,1:].double(), m.jets(m(b.x, b.mask), b.mask, b.pt).p4[...,1:].double()
        want = torch.stack([((p[i,:7]-q[i,:7])**2).sum(1).mean()**.5 for i in range(30)])
        torch.testing.assert_close(reconstruction_score(m, a, gev=True).double(), want, rtol=1e-4, atol=1e-4)

def test_no_score_without_particles():
    "Nor of what is no number: an error that names the jet, and not a low score"
    m, a = JetVAE().fit(jets(0)), few(30)
    none, broken = a.assign(mask=a.mask & (torch.arange(30)!=7)[:,None]), a.assign(p4=a.p4.clone().index_fill_(0, torch.tensor([5]), float('nan')))
    for f in (JetVAE.score, elbo_score, kl_score, reconstruction_score, log_likelihood, norm_score):
        with pytest.raises(ValueError, match='jet 7 has no particles'): f(m, none)
        with pytest.raises(ValueError, match='jet 5 has'): f(m, broken)

def test_more_slots_than_jets_have():
    with pytest.warns(UserWarning, match='particles=300: these jets have 64 slots'): JetVAE(particles=300).fit(jets(0))

def test_likelihood_is_of_the_jet():
    "And not of how many follow it; no graph is kept"
    m, a = JetVAE().fit(jets(0)), sample('jets', 'train')[:700]
    s = log_likelihood(m, a, k=3)
    assert not s.requires_grad
    for n in (1, 37, 500, 600): torch.testing.assert_close(log_likelihood(m, a[:n], k=3), s[:n])

def test_bad_input():
    a = jets(0)
    m = JetVAE().fit(a)
    for f,words in ((lambda: JetVAE(latent=0), 'latent=0'), (lambda: elbo(-1.), 'beta is a number'), (lambda: elbo(.1, free=-1), 'free is a number'), (lambda: disco(elbo(), lam=float('nan')), 'lam is a number'), (lambda: outlier_exposure(elbo(), a, lam='x'), 'lam is a number'),
        (lambda: log_likelihood(m, a, beta=0.), 'variance above 0'), (lambda: m.inputs(a.assign(p4=a.p4.clone().index_fill_(0, torch.tensor([5]), float('inf')))), 'jet 5 has'), (lambda: chapter.sample(m, 5, z=torch.zeros(5,3)), 'expected')):
        with pytest.raises(ValueError, match=words): f()
    with pytest.raises(TypeError, match='latnet'): jet_vae(a, latnet=3)

@pytest.mark.long
def test_study_options(tmp_path, monkeypatch):
    "Pre-trained, annealed, unaligned, another network, batches that do not divide the jets: what is set is what is trained"
    import hepebm.studies.vae as study
    from hepebm.studies.studies import run_study
    seen = {}
    def watched(train, make, **kw): seen[kw['bar']] = kw; return jet_vae(train, make, **kw)
    monkeypatch.setattr(study, 'jet_vae', watched)
    change = dict(pretrained=True, score='reconstruction', anneal='cyclic', aligned=False, encoder='lstm', train=101, test=40, size=20, disco_size=20, epochs=3, disco_epochs=3, codes=2, generate=40, bootstrap=2)
    out = run_study('vae', preset='smoke', out=tmp_path/'run', change=change)
    assert seen['VAE']['start'] is None and seen['VAE']['encoder']=='lstm' and seen['VAE']['aligned'] is False
    for k in ('DisCo-VAE','OE-VAE'): assert isinstance(seen[k]['start'], JetVAE) and not seen[k]['start'].aligned and 'encoder' not in seen[k]
    betas = read_log(out/'training'/'beta')['_beta']
    betas = betas[betas.isfinite()]
    assert betas.max()-betas.min() > .02 and betas.max() <= .1+1e-6
    table = (out/'tables'/'windows.csv').read_text()
    assert all(k in table for k in seen) and 'W (seen)' in table
    a = sample('jets', 'valid')
    a = a[a.label==0]
    for k in ('model','model-disco','model-oe'):  # the score that was chosen is that of the model: of its control sample, and of `hepebm score`
        m = load_model(out/k)
        with torch.no_grad(): torch.testing.assert_close(m.score(a), reconstruction_score(m, a))
        torch.testing.assert_close(load(out/k/'control.safetensors').score, m.score(a), atol=1e-4, rtol=1e-4)

@pytest.mark.long
def test_study_as_published(tmp_path):
    "Steps of the learning rate, schedules of lambda, early ends, weights of a flat mass, the energy mover's distance"
    from importlib.util import find_spec
    from hepebm.studies.studies import read_json, run_study
    change = dict(late='published', anneal='published', flat=True, unbiased=False, disco_drops='1', oe_drops='1 2', patience=1, emd=bool(find_spec('energyflow')), train=100, test=40, size=50, disco_size=50, epochs=3, disco_epochs=3, codes=2, generate=40, bootstrap=2)
    out = run_study('vae', preset='smoke', out=tmp_path/'run', change=change)
    log = read_log(out/'training'/'disco')
    assert 'valid_loss' in log and not log.disco[log.disco.isfinite()].any()  # lambda is 0 in the first ten epochs
    assert not find_spec('energyflow') or 0 < read_json(out/'metrics.json')['auc/top/VAE, EMD']['value'] < 1

def test_learning_rate_falls():
    "To a tenth after the epochs that are named: then nothing moves"
    a = jets(0)
    states = [jet_vae(a, epochs=e, lr=1e-3, drops=d, size=40, bar=None).state_dict() for e,d in ((2,()), (3,(2,)), (3,(2,)*9), (3,()))]
    moved = [max((v-w).abs().max().item() for v,w in zip(s.values(), states[0].values())) for s in states]
    assert moved[2] < 1e-5 < moved[1] < moved[3]/3

def test_early_end():
    "When the loss of valid jets has not fallen for so long, counted from `settled`"
    steps = lambda **kw: int(jet_vae(jets(0), epochs=8, lr=1e-12, size=120, valid=jets(0, 50), bar=None, callbacks=[Watch(Seen(seen := []), lambda run: dict(epoch=run.epoch), every=1)], **kw) and len(seen))
    assert steps()==8 and steps(patience=2) < steps(patience=2, settled=4) < 8

def test_weights_of_a_flat_mass():
    "Jets that are heavier than nearly all count nothing, and the others as much in every part of the spectrum"
    import numpy as np
    from hepebm.studies.vae import _flat
    a = _flat(sample('jets', 'train')[:3000])
    mass, w = JetVAE().fit(a).inputs(a).mass, a.weight
    h = np.histogram(mass, np.linspace(*np.quantile(mass, (.01,.99)), 31), weights=w)[0]
    np.testing.assert_allclose(h, h.mean(), rtol=1e-3)
    assert torch.equal(JetVAE().fit(a).inputs(a).weight, w) and not w[mass>mass.quantile(.991)].any()

class Seen:
    "A view that counts"
    def __init__(self, seen): self.seen = seen
    def update(self, **frame): self.seen.append(frame)
