package aggregate

import "slices"

//go:generate go run ../tools/protocol ../docs/protocol.md

// State is where a machine stands; a phase may have several.
type State string

// The states of the aggregator, then those of a member.
const (
	stCalled     State = "called"
	stGathering  State = "gathering"
	stDealing    State = "dealing"
	stCollecting State = "collecting"
	stCharging   State = "charging"
	stVoting     State = "voting"
	stReleasing  State = "releasing"
	stOpening    State = "opening"
	stEnded      State = "ended"

	stTraining State = "training"
	stReady    State = "ready"
	stDealt    State = "dealt"
	stSpooling State = "spooling"
	stUploaded State = "uploaded"
	stDeclined State = "declined" // sends no vector; still votes and releases for the others
	stVoted    State = "voted"
	stReleased State = "released"
	stOut      State = "left out"
	stRestored State = "restored" // resends what it stored and answers nothing
	stAny      State = "any"
)

// Population is who is waited for.
type Population string

// The populations of a guard.
const (
	ofMembers   Population = "members"
	ofCommittee Population = "committee"
	ofRoster    Population = "roster"
)

// Guard is a condition of a transition.
type Guard string

// The guards. Those that wait for all present go on at the deadline too.
const (
	always         Guard = ""
	guardMinimum   Guard = "all present or deadline, with ≥ minimum"
	guardQuorum    Guard = "all present or deadline, with ≥ max(minimum, t)"
	guardVotes     Guard = "t on one set"
	guardShares    Guard = "t good shares of every deal"
	guardNamed     Guard = "own answer is in it"
	guardNotNamed  Guard = "own answer is not in it"
	guardWholePass Guard = "every word was masked once"
	guardInSet     Guard = "it is in the proposed set"
	guardNotInSet  Guard = "it is not in the proposed set"
)

// Action is one thing that a transition does.
type Action string

// The actions of both machines, done in the order of their row.
const (
	doPersist Action = "Persist"
	doErase   Action = "erase all secrets"
	doEnd     Action = "End"

	doPlan        Action = "sign Plan"
	doCommittee   Action = "sign Committee"
	doRoster      Action = "sign Roster"
	doWeigh       Action = "weigh complaints"
	doAskCharge   Action = "ChargeLedger"
	doProposal    Action = "sign Proposal"
	doCertificate Action = "make the opening key, sign Certificate"
	doJoin        Action = "open shares, erase the opening key"
	doOpen        Action = "Open"
	doResult      Action = "sign Result"
	doSend        Action = "Send"
	doRecordPlan  Action = "Record plan"
	doRecordSpent Action = "Record charge"
	doRecordSet   Action = "Record set"
	doRecordEnd   Action = "Record result"
	doWait        Action = "Wait"
	doLeaveOut    Action = "drop what it answered, Persist"
	doAbort       Action = "sign Result (aborted), Persist, Record result, Send, erase all secrets, End"
	doBurn        Action = "sign Result (burnt), Persist, Record result, Send, erase all secrets, End"

	doTrain        Action = "StartTraining"
	doReady        Action = "make one-time keys, sign Ready"
	doDeal         Action = "share seed and mask key, sign Deal"
	doOpenBoxes    Action = "open boxes, erase the seal key"
	doMasks        Action = "derive masks, make noise key"
	doFill         Action = "FillSpool"
	doForgetMasks  Action = "erase mask key, seed, masks and noise"
	doUpload       Action = "sign Upload"
	doSendVector   Action = "SendVector"
	doVote         Action = "sign Vote"
	doRelease      Action = "seal shares to the opening key, sign Release"
	doForgetShares Action = "erase shares"
)

// Transition is one row of the table that a machine runs.
type Transition struct {
	State  State
	Phase  Phase      // what the machine's Phase method returns in State
	On     string     // what moves it: the kind of a message, else the name of an event
	Of     Population // whose messages count; empty where one message or event is enough
	Guard  Guard
	Then   []Action
	Next   State
	Missed Outcome // what the round becomes when the deadline passes and the guard does not hold; empty without a deadline
	Crash  string  // what a restored machine does in State; empty where another row says it
}

// The names of events in tables.
const (
	onBegin    = "Begin"
	onTrained  = "Trained"
	onCharged  = "Charged"
	onDeclined = "ChargeRefused"
	onSpooled  = "Spooled"
	onOpened   = "Opened"
	onSpoilt   = "Spoilt"
	onRevoked  = "Revoked"
	onResult   = "result"
)

const (
	sendsAgain = "sends again, goes on"
	asksAgain  = "asks again, goes on"
	burns      = "burns the round"
	givesUp    = "gives the round up"
	resends    = "resends the stored Upload; no vote, no release"
)

var aggregatorTable = []Transition{
	{stCalled, Gathering, onBegin, "", always, []Action{doPlan, doPersist, doRecordPlan, doSend, doWait}, stGathering, "", ""},
	{stGathering, Gathering, "ready", ofMembers, guardMinimum, []Action{doCommittee, doPersist, doSend, doWait}, stDealing, Aborted, sendsAgain},
	{stGathering, Gathering, onRevoked, "", always, []Action{doLeaveOut}, stGathering, "", ""},
	{stDealing, Dealing, "deal", ofCommittee, guardMinimum, []Action{doRoster, doPersist, doSend, doWait}, stCollecting, Aborted, sendsAgain},
	{stDealing, Dealing, onRevoked, "", always, []Action{doLeaveOut}, stDealing, "", ""},
	{stCollecting, Collecting, "upload", ofRoster, guardQuorum, []Action{doWeigh, doPersist, doAskCharge}, stCharging, Aborted, sendsAgain},
	{stCollecting, Collecting, onRevoked, "", always, []Action{doLeaveOut}, stCollecting, "", ""},
	{stCharging, Collecting, onCharged, "", always, []Action{doProposal, doPersist, doRecordSpent, doSend, doWait}, stVoting, "", asksAgain},
	{stCharging, Collecting, onDeclined, "", always, []Action{doAbort}, stEnded, "", ""},
	{stCharging, Collecting, onRevoked, "", always, []Action{doLeaveOut}, stCharging, "", ""},
	{stVoting, Voting, "vote", ofRoster, guardVotes, []Action{doCertificate, doPersist, doRecordSet, doSend, doWait}, stReleasing, Aborted, sendsAgain},
	{stVoting, Voting, onRevoked, "", guardInSet, []Action{doAbort}, stEnded, "", ""},
	{stVoting, Voting, onRevoked, "", guardNotInSet, []Action{doLeaveOut}, stVoting, "", ""},
	{stReleasing, Releasing, "release", ofRoster, guardShares, []Action{doJoin, doOpen}, stOpening, Burnt, burns},
	{stReleasing, Releasing, onRevoked, "", guardInSet, []Action{doBurn}, stEnded, "", ""},
	{stReleasing, Releasing, onRevoked, "", guardNotInSet, []Action{doLeaveOut}, stReleasing, "", ""},
	{stOpening, Opening, onOpened, "", always, []Action{doResult, doPersist, doRecordEnd, doSend, doErase, doEnd}, stEnded, "", burns},
	{stOpening, Opening, onSpoilt, "", always, []Action{doBurn}, stEnded, "", ""},
	{stOpening, Opening, onRevoked, "", guardInSet, []Action{doBurn}, stEnded, "", ""},
}

var memberTable = []Transition{
	{stCalled, Gathering, onBegin, "", always, []Action{doTrain}, stTraining, "", givesUp},
	{stTraining, Gathering, onTrained, "", always, []Action{doReady, doSend}, stReady, "", givesUp},
	{stReady, Gathering, "committee", "", guardNamed, []Action{doDeal, doSend}, stDealt, "", givesUp},
	{stReady, Gathering, "committee", "", guardNotNamed, []Action{doErase}, stOut, "", ""},
	{stDealt, Dealing, "roster", "", guardNamed, []Action{doOpenBoxes, doMasks, doAskCharge}, stCharging, "", givesUp},
	{stDealt, Dealing, "roster", "", guardNotNamed, []Action{doErase}, stOut, "", ""},
	{stCharging, Collecting, onCharged, "", always, []Action{doFill}, stSpooling, "", givesUp},
	{stCharging, Collecting, onDeclined, "", always, []Action{doForgetMasks}, stDeclined, "", ""},
	{stSpooling, Collecting, onDeclined, "", always, []Action{doForgetMasks}, stDeclined, "", ""},
	{stSpooling, Collecting, onSpooled, "", guardWholePass, []Action{doForgetMasks, doUpload, doPersist, doSendVector}, stUploaded, "", givesUp},
	{stUploaded, Collecting, "proposal", "", always, []Action{doVote, doPersist, doSend}, stVoted, "", resends},
	{stCharging, Collecting, "proposal", "", always, []Action{doForgetMasks, doVote, doPersist, doSend}, stVoted, "", ""},
	{stSpooling, Collecting, "proposal", "", always, []Action{doForgetMasks, doVote, doPersist, doSend}, stVoted, "", ""},
	{stDeclined, Collecting, "proposal", "", always, []Action{doVote, doPersist, doSend}, stVoted, "", givesUp},
	{stVoted, Voting, "certificate", "", always, []Action{doRelease, doPersist, doSend, doForgetShares}, stReleased, "", resends},
	{stReleased, Releasing, onResult, "", always, []Action{doErase, doEnd}, stEnded, "", resends},
	{stOut, Dealing, onResult, "", always, []Action{doErase, doEnd}, stEnded, "", givesUp},
	{stRestored, Collecting, onBegin, "", always, []Action{doSendVector}, stRestored, "", ""},
	{stAny, "", onResult, "", always, []Action{doErase, doEnd}, stEnded, "", ""},
}

// Table returns the transitions that Round and Member run, row by row as they are tried.
func Table() (aggregator, member []Transition) {
	return clone(aggregatorTable), clone(memberTable)
}

func clone(rows []Transition) []Transition {
	rows = slices.Clone(rows)
	for i := range rows {
		rows[i].Then = slices.Clone(rows[i].Then)
	}
	return rows
}

// phaseOf is what a machine's Phase method returns.
func phaseOf(rows []Transition, s State) Phase {
	for _, row := range rows {
		if row.State == s {
			return row.Phase
		}
	}
	return Ended
}
