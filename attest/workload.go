package attest

// WorkloadClaims are the claims of this block.
type WorkloadClaims struct{}

// WorkloadPolicy is what is taken of it.
type WorkloadPolicy struct{}

func (p *WorkloadPolicy) appraise(*WorkloadClaims, *appraisal) {}
