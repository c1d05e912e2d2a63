# What the coordinator requires before it answers a request. A request passes when nothing that is
# required is missing: there is no list of what is refused, because a comparison with a field that
# is not there is undefined, and a refusal that is undefined lets the request through.
package consilium.coordinator

base := {"method", "session"}

# Who may call what: the role of the peer, and the group of requirements that it has to meet.
methods := {
	"/grpc.health.v1.Health/Check": {"node": "any", "person": "any"},
	"/grpc.health.v1.Health/List": {"node": "any", "person": "any"},
	"/grpc.health.v1.Health/Watch": {"node": "any", "person": "any"},
	"/consilium.v1.IdentityService/IssueSVID": {"node": "enrolled"},
	"/consilium.v1.IdentityService/GetBundle": {"node": "enrolled"},
	"/consilium.v1.StudyService/CreateStudy": {"person": "submitter"},
	"/consilium.v1.StudyService/GetStudy": {"node": "member", "person": "reader"},
	"/consilium.v1.StudyService/ListStudies": {"node": "member", "person": "reader"},
	"/consilium.v1.StudyService/ApproveStudy": {"person": "lead"},
	"/consilium.v1.StudyService/CancelStudy": {"person": "lead"},
	"/consilium.v1.StudyService/WatchStudy": {"person": "reader"},
	"/consilium.v1.RoundService/Follow": {"node": "follower"},
	"/consilium.v1.RoundService/Send": {"node": "contributor"},
	"/consilium.v1.RoundService/Upload": {"node": "contributor"},
	"/consilium.v1.RoundService/Download": {"node": "contributor"},
	"/consilium.v1.ReleaseService/GetReceipt": {"node": "taker", "person": "witness"},
	"/consilium.v1.ReleaseService/DownloadModel": {"node": "taker", "person": "recipient"},
	"/consilium.v1.AuditService/ReadLog": {"node": "member", "person": "reader"},
	"/consilium.v1.AuditService/CosignCheckpoint": {"node": "member"},
}

groups := {
	"any": {"attested"},
	"enrolled": {"attested", "enrolled", "exists", "member", "sender", "study"},
	"member": {"attested", "enrolled", "exists", "member", "sender", "study", "svid"},
	"follower": {"attested", "enrolled", "exists", "member", "sender", "started", "study", "svid"},
	"contributor": {"attested", "enrolled", "exists", "member", "running", "sender", "study", "svid"},
	"taker": {"attested", "enrolled", "exists", "finished", "hospitals", "member", "sender", "study", "svid"},
	"reader": {"attested", "person", "sender", "study"},
	"submitter": {"attested", "lead", "new", "person", "sender", "study"},
	"lead": {"attested", "exists", "lead", "open", "person", "sender", "study"},
	"recipient": {"attested", "exists", "finished", "person", "recipient", "sender", "study"},
	"witness": {"attested", "exists", "finished", "person", "recipient_or_auditor", "sender", "study"},
}

required contains name if some name in base

required contains name if some name in groups[methods[input.method][input.peer.role]]

# The method is known, and is for this role.
passed contains "method" if methods[input.method][input.peer.role]

# The attestation still holds.
passed contains "session" if {
	input.now > 0 # null is less than any number
	input.now < input.session.until
}

# A node's evidence was appraised, and what is simulated was not taken for real.
passed contains "attested" if {
	input.peer.role == "node"
	input.session.status in {"affirming", "warning"}
	input.session.simulated == false
}

passed contains "attested" if {
	input.peer.role == "node"
	input.session.status == "warning"
	input.session.simulated == true
}

# A person shows no evidence.
passed contains "attested" if {
	input.peer.role == "person"
	input.session.status == ""
	input.session.simulated == false
}

# The connection was attested for the study asked about. A person's may be for its consortium.
passed contains "study" if {
	input.session.study != ""
	input.session.consortium == false
	input.target.study == input.session.study
}

passed contains "study" if {
	input.peer.role == "person"
	input.session.study != ""
	input.session.consortium == true
}

# The leaf key is that of the hospital's newest enrolment.
passed contains "enrolled" if {
	input.peer.enrolled == true
	input.peer.hospital != ""
	input.peer.node != ""
}

# The leaf is our SVID, and names the same hospital and node as the enrolment.
passed contains "svid" if {
	input.peer.svid == true
	endswith(input.peer.spiffe, concat("/", ["", "hospital", input.peer.hospital, "node", input.peer.node]))
}

passed contains "member" if input.peer.hospital in input.target.members

# Nobody speaks for another hospital.
passed contains "sender" if input.target.from == ""

passed contains "sender" if {
	input.peer.role == "node"
	input.target.from == input.peer.hospital
}

passed contains "exists" if input.target.exists == true

passed contains "new" if input.target.exists == false

passed contains "running" if input.target.state == "running"

# A member may hear the last result, and co-sign the last checkpoint, after the last round.
passed contains "started" if input.target.state in {"running", "ended", "short"}

passed contains "finished" if input.target.state in {"ended", "short"}

passed contains "open" if input.target.state in {"proposed", "running"}

passed contains "hospitals" if input.target.hospitals == true

# A person of the consortium.
passed contains "person" if {
	is_string(input.peer.person)
	input.peer.person != ""
	input.peer.person_role in {"lead", "auditor"}
}

# The lead of this very study.
passed contains "lead" if {
	input.peer.person_role == "lead"
	input.peer.person == input.target.lead
}

passed contains "recipient" if input.peer.person in input.target.release

passed contains "recipient_or_auditor" if input.peer.person in input.target.release

passed contains "recipient_or_auditor" if input.peer.person_role == "auditor"

decision := {"required": required, "missing": required - passed, "refused": refused}

# Extra policies may only refuse.
refused contains reason if some reason in data.consilium.extra.refuse
