// Package snp makes and verifies evidence of SEV-SNP guests: the report of the AMD secure processor, 1184 bytes, with
// the certificate of the key that signed it.
package snp
