package attest

// TPMClaims are the claims of this block.
type TPMClaims struct{}

// TPMPolicy is what is taken of it.
type TPMPolicy struct{}

func (p *TPMPolicy) appraise(*TPMClaims, *appraisal) {}
