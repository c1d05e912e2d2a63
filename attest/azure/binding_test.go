package azure

import (
	"context"

	"github.com/consilium-fl/consilium/attest"
)

// Attest answers one binding, as a window of one does.
func (a attester) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	data, err := b.ReportData(nil)
	if err != nil {
		return attest.Evidence{}, err
	}
	return a.over(ctx, data)
}
