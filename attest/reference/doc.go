// Package reference reads what evidence is appraised by: a policy file, in which absence is an error, and
// manifests of reference values (RFC 9334, section 4.1), which carry a policy under a name.
//
// A consortium pins a manifest's name and, by its amenders, who signs it, not the measurements: firmware and images are
// upgraded more often than studies are agreed on. Versions of a manifest have serials that only rise, end at a date,
// and overlap, so that machines can be upgraded one by one. A version may end those before it at once (least).
package reference
