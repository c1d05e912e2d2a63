// Package newton fits the models that a federated one is compared with: logistic regression to convergence, without clip and
// noise. It is not in node/train, because nothing that runs at a hospital needs it.
//
//	w, err := newton.Converged(rows, labels, 0.001, true) // rows end in 1 for the intercept
package newton

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mat"

	"github.com/consilium-fl/consilium/node/train"
)

const (
	tolerance = 1e-9 // of the gradient of the mean loss, largest coordinate
	mostSteps = 200
)

// ErrDiverged says that there is no finite optimum, as on separable data without a penalty.
var ErrDiverged = errors.New("no finite optimum")

// Converged minimises the mean log-loss plus l2/2·‖w‖² by Newton's method with halved steps. With interceptUnpenalised the last weight
// is free of l2. With one class only, the free intercept grows until the loss no longer changes, and the result
// predicts that class.
func Converged(rows [][]float64, labels []float64, l2 float64, interceptUnpenalised bool) ([]float64, error) {
	if len(rows) == 0 || len(rows) != len(labels) {
		return nil, fmt.Errorf("fitting by Newton: %d rows with %d labels", len(rows), len(labels))
	}
	p := problem{rows: rows, labels: labels, penalty: make([]float64, len(rows[0]))}
	for i := range p.penalty {
		p.penalty[i] = l2
	}
	if interceptUnpenalised {
		p.penalty[len(p.penalty)-1] = 0
	}
	w := make([]float64, len(rows[0]))
	for range mostSteps {
		g, h := p.derivatives(w)
		if floats.Norm(g, math.Inf(1)) < tolerance {
			return w, nil
		}
		step, err := solve(h, g)
		if err != nil {
			return nil, fmt.Errorf("fitting by Newton: %w: %w", ErrDiverged, err)
		}
		p.descend(w, step)
	}
	return nil, fmt.Errorf("fitting by Newton: %w after %d steps", ErrDiverged, mostSteps)
}

type problem struct {
	rows    [][]float64
	labels  []float64
	penalty []float64 // of each weight
}

func (p problem) loss(w []float64) float64 {
	var sum float64
	for i, x := range p.rows {
		z := floats.Dot(w, x)
		// log(1 + eᶻ) − y·z without overflow
		sum += max(z, 0) + math.Log1p(math.Exp(-math.Abs(z))) - p.labels[i]*z
	}
	sum /= float64(len(p.rows))
	for i, v := range w {
		sum += p.penalty[i] / 2 * v * v
	}
	return sum
}

func (p problem) derivatives(w []float64) (g []float64, h *mat.SymDense) {
	n := float64(len(p.rows))
	g, h = make([]float64, len(w)), mat.NewSymDense(len(w), nil)
	for i, x := range p.rows {
		q := train.Predict(w, x)
		floats.AddScaled(g, (q-p.labels[i])/n, x)
		h.SymRankOne(h, q*(1-q)/n, mat.NewVecDense(len(x), x))
	}
	for i, v := range w {
		g[i] += p.penalty[i] * v
		h.SetSym(i, i, h.At(i, i)+p.penalty[i])
	}
	return g, h
}

func solve(h *mat.SymDense, g []float64) ([]float64, error) {
	var c mat.Cholesky
	if !c.Factorize(h) {
		return nil, errors.New("the Hessian is singular")
	}
	step := mat.NewVecDense(len(g), nil)
	var condition mat.Condition
	if err := c.SolveVecTo(step, mat.NewVecDense(len(g), g)); err != nil && !errors.As(err, &condition) {
		return nil, err
	}
	return step.RawVector().Data, nil
}

// rounding is how far two losses may differ by rounding alone, relatively: near the optimum a whole step
// changes the loss by less, and halving it then would go nowhere.
const rounding = 1e-12

// descend goes along −step, half as far as long as the loss rises.
func (p problem) descend(w, step []float64) {
	before := p.loss(w)
	scale := 1.
	next := make([]float64, len(w))
	for range 40 {
		copy(next, w)
		floats.AddScaled(next, -scale, step)
		if p.loss(next) <= before+rounding*math.Abs(before) {
			break
		}
		scale /= 2
	}
	copy(w, next)
}
