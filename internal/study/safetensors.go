package study

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"

	"github.com/consilium-fl/consilium/internal/signed"
)

// ModelFormat is the format in the metadata of a model file.
const ModelFormat = "consilium.model/v1"

const (
	maxModelHeader = 4096
	maxModelDim    = 1 << 27
)

type modelHeader struct {
	Metadata struct {
		Format string `json:"format"`
		Study  string `json:"study"`
	} `json:"__metadata__"`
	Weights struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets []int  `json:"data_offsets"`
	} `json:"weights"`
}

// EncodeModel writes a model as safetensors: one little-endian F64 tensor "weights" of shape [len(w)]. Equal models
// are equal bytes. Source: the safetensors format description, 0.4.
func EncodeModel(study [32]byte, w []float64) []byte {
	var h modelHeader
	h.Metadata.Format, h.Metadata.Study = ModelFormat, signed.DigestText(study)
	h.Weights.DType, h.Weights.Shape, h.Weights.Offsets = "F64", []int{len(w)}, []int{0, 8 * len(w)}
	header, err := json.Marshal(h)
	if err != nil {
		panic("study: a header of strings and integers always encodes: " + err.Error())
	}
	for len(header)%8 != 0 { // the tensor begins aligned
		header = append(header, ' ')
	}
	b := make([]byte, 0, 8+len(header)+8*len(w))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(header)))
	b = append(b, header...)
	for _, v := range w {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	}
	return b
}

// DecodeModel reads what EncodeModel wrote, and nothing else. Weights that are not finite are an error.
func DecodeModel(b []byte) (study [32]byte, w []float64, err error) {
	fail := func(format string, a ...any) ([32]byte, []float64, error) {
		return [32]byte{}, nil, fmt.Errorf("decoding model: "+format, a...)
	}
	if len(b) < 8 {
		return fail("%d bytes, want at least 8", len(b))
	}
	n := binary.LittleEndian.Uint64(b)
	if n > maxModelHeader || n > uint64(len(b)-8) {
		return fail("header of %d bytes in a file of %d, want at most %d", n, len(b), maxModelHeader)
	}
	var h modelHeader
	if err := json.Unmarshal(b[8:8+n], &h); err != nil {
		return fail("header: %w", err)
	}
	data := b[8+n:]
	if len(h.Weights.Shape) != 1 || h.Weights.Shape[0] < 0 || h.Weights.Shape[0] > maxModelDim || len(data) != 8*h.Weights.Shape[0] {
		return fail("shape %v with %d bytes of weights, want 8 bytes each in one dimension", h.Weights.Shape, len(data))
	}
	if study, err = signed.ParseDigest(h.Metadata.Study); err != nil {
		return fail("study: %w", err)
	}
	w = make([]float64, h.Weights.Shape[0])
	for i := range w {
		w[i] = math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:]))
		if math.IsNaN(w[i]) || math.IsInf(w[i], 0) {
			return fail("weight %d is %v, want a finite number", i, w[i])
		}
	}
	if !bytes.Equal(EncodeModel(study, w), b) {
		return fail("not in the one form that models are written in")
	}
	return study, w, nil
}
