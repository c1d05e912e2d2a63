package coordinator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

// open sums the masked vectors of a certified set, noises them where the plan says so, unmasks, and makes
// the next model. Whatever goes wrong burns the round: something may have been opened.
//
// Nothing of it is on disk before Opened is answered but the noised sum and the model made of it. A crash
// before the machine's Persist of the Result leaves them unnamed by any Result; the restored round burns.
func (d *driver) open(x aggregate.Open) ([]aggregate.Event, error) {
	sum, err := d.unmask(x)
	if err != nil {
		return []aggregate.Event{aggregate.Spoilt{Why: err.Error()}}, nil
	}
	model, err := d.nextModel(sum)
	if err != nil {
		return []aggregate.Event{aggregate.Spoilt{Why: err.Error()}}, nil
	}
	return []aggregate.Event{aggregate.Opened{Sum: aggregate.SumDigest(sum), Model: model}}, nil
}

func (d *driver) unmask(x aggregate.Open) ([]int64, error) {
	plan, v := d.round.Plan(), d.currentVectors()
	masked, err := aggregate.NewMaskedSum(plan)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, errors.New("no vectors are held")
	}
	digests, err := d.uploaded()
	if err != nil {
		return nil, err
	}
	for _, m := range x.Set {
		if err := v.each(m, digests[m], masked.Add); err != nil {
			return nil, fmt.Errorf("adding the vector of %q: %w", m, err)
		}
	}
	noised, err := d.noise(plan, masked, x.NoiseKey)
	if err != nil {
		return nil, err
	}
	return noised.Unmask(x.Opening)
}

// uploaded are the digests of the vectors in the running round's set, as their members signed them.
func (d *driver) uploaded() (map[aggregate.MemberID][32]byte, error) {
	digests := map[aggregate.MemberID][32]byte{}
	for _, s := range d.round.Transcript() {
		m, err := aggregate.Parse(s)
		if err != nil {
			return nil, err
		}
		p, ok := m.(aggregate.Proposal)
		if !ok {
			continue
		}
		for _, c := range p.Contributions {
			u, err := aggregate.Parse(c.Upload)
			if err != nil {
				return nil, err
			}
			digests[c.Upload.From] = u.(aggregate.Upload).Vector
		}
	}
	return digests, nil
}

// noise makes a sum one that may be unmasked.
func (d *driver) noise(p aggregate.Plan, s *aggregate.MaskedSum, key [32]byte) (*aggregate.NoisedMaskedSum, error) {
	if p.Noise.Source == aggregate.Members {
		return s.NoisedByMembers(p.Noise)
	}
	if f := d.s.c.deps.Noise; f != nil {
		return s.Noise(f(d.s.terms.Full, key))
	}
	return s.Noise(d.s.terms.Full.Keyed(key))
}

// nextModel keeps an opened sum and the model that the study's strategy makes of it.
func (d *driver) nextModel(sum []int64) ([32]byte, error) {
	w, err := d.s.readModel(d.progress.Model)
	if err != nil {
		return [32]byte{}, err
	}
	var model [32]byte
	var both errgroup.Group // each waits for the disk
	both.Go(func() error {
		return store.WriteFile(filepath.Join(d.roundDir(d.number), sumFile), sumBytes(sum), 0)
	})
	both.Go(func() (err error) {
		model, err = d.s.writeModel(study.EncodeModel(d.s.digest, d.s.study.Next(w, sum)))
		return err
	})
	return model, both.Wait()
}

// sumFile is a round's opened sum, in its folder and in the output folder's.
const sumFile = "sum.bin"

// sumBytes is sum.bin: int64s, little endian, whose digest is aggregate.SumDigest.
func sumBytes(sum []int64) []byte {
	b := make([]byte, 0, 8*len(sum))
	for _, v := range sum {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return b
}
