# What a hospital's node requires before it follows a study or lets a round use its patients. It
# passes when nothing that is required is missing; see coordinator.rego for why.
package consilium.node

base := {"method", "approved", "approval_valid", "dataset", "study"}

methods := {
	"join": set(),
	"train": {"attested", "budget", "ethics", "member", "session", "valid"},
}

required contains name if some name in base

required contains name if some name in methods[input.method]

passed contains "method" if methods[input.method]

# This hospital's own signature is there, for this study, and has not ended.
passed contains "approved" if input.study.approved == true

passed contains "approval_valid" if {
	input.now > 0 # null is less than any number
	input.now < input.study.approved_until
}

passed contains "dataset" if {
	input.study.dataset != ""
	input.study.dataset == input.study.registry
}

# The connection serves the study asked about and no other.
passed contains "study" if {
	input.session.study != ""
	input.session.study == input.target.study
}

# The coordinator's attestation still holds, and what is simulated was not taken for real.
passed contains "session" if {
	input.now > 0
	input.now < input.session.until
}

passed contains "attested" if {
	input.session.status in {"affirming", "warning"}
	input.session.simulated == false
}

passed contains "attested" if {
	input.session.status == "warning"
	input.session.simulated == true
}

passed contains "member" if {
	input.study.hospital != ""
	input.study.hospital in input.target.members
}

passed contains "valid" if {
	input.study.from > 0
	input.study.from <= input.now
	input.now < input.study.until
}

passed contains "ethics" if {
	input.now > 0
	input.now < input.study.ethics_until
}

passed contains "budget" if input.study.budget == true

decision := {"required": required, "missing": required - passed, "refused": refused}

# The hospital's own policy may only refuse.
refused contains reason if some reason in data.consilium.consent.refuse
