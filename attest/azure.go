package attest

// AzureClaims are the claims of this block.
type AzureClaims struct{}

// AzurePolicy is what is taken of it.
type AzurePolicy struct{}

func (p *AzurePolicy) appraise(*AzureClaims, *appraisal) {}
