package attest

// TDXClaims are the claims of this block.
type TDXClaims struct{}

// TDXPolicy is what is taken of it.
type TDXPolicy struct{}

func (p *TDXPolicy) appraise(*TDXClaims, *appraisal) {}
