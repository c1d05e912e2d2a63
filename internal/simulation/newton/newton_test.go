package newton

import (
	"errors"
	"math"
	"testing"
)

// Two groups without a penalty: the optimum is the log odds of each.
func TestClosedForm(t *testing.T) {
	var rows [][]float64
	var labels []float64
	add := func(x float64, positive, negative int) {
		for i := range positive + negative {
			rows = append(rows, []float64{x, 1})
			label := 0.
			if i < positive {
				label = 1
			}
			labels = append(labels, label)
		}
	}
	add(0, 3, 1)
	add(1, 1, 4)
	w, err := Converged(rows, labels, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := math.Log(3), math.Log(0.25)-math.Log(3); math.Abs(w[1]-a) > 1e-7 || math.Abs(w[0]-b) > 1e-7 {
		t.Errorf("got %v, want %v", w, []float64{b, a})
	}
}

func TestOneClass(t *testing.T) {
	w, err := Converged([][]float64{{1, 1}, {-1, 1}, {2, 1}}, []float64{1, 1, 1}, 0.01, true)
	if err != nil || w[1] < 10 || math.Abs(w[0]) > 1 {
		t.Errorf("got %v, %v, want a large intercept and little else", w, err)
	}
}

func TestSeparable(t *testing.T) {
	rows, labels := [][]float64{{1, 1}, {-1, 1}}, []float64{1, 0}
	if w, err := Converged(rows, labels, 0.001, true); err != nil || w[0] < 1 {
		t.Errorf("with a penalty: %v, %v", w, err)
	}
	if _, err := Converged([][]float64{{1, 1, 1}, {-1, -1, 1}}, labels, 0, true); !errors.Is(err, ErrDiverged) {
		t.Errorf("two equal columns: got %v, want ErrDiverged", err)
	}
	if _, err := Converged(nil, nil, 1, true); err == nil {
		t.Error("no rows: got no error")
	}
}
