package attest

// SNPClaims is what an SEV-SNP report says (AMD 56860, table 23), with the certificate that signed it.
type SNPClaims struct{}

// SNPPolicy is what is taken of an SNP guest.
type SNPPolicy struct{}

func (p *SNPPolicy) appraise(*SNPClaims, *appraisal) {}
