// Package snp makes and verifies evidence of SEV-SNP guests: the report of the AMD secure processor, 1184 bytes, with
// the certificate of the key that signed it. What is taken of a report is said in [attest.SNPPolicy].
//
// In the guest, where [Probe] tells what is missing if this fails:
//
//	attester, err := snp.NewAttester(snp.LowestLevel)
//
// At the other end, with AMD's roots in the snapshot:
//
//	verifiers := attest.NewVerifiers(snp.NewVerifier())
package snp
