"Autoencoders beyond what their notebooks show: resuming, devices of the parts, the mistakes of published code"
import pytest, torch
from hepebm.core.training import Watch
from hepebm.data.samples import sample
from hepebm.vae.disco import disco, mass_weights
from hepebm.vae.outliers import outlier_exposure
from hepebm.vae.vae import JetVAE, elbo, jet_vae

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
