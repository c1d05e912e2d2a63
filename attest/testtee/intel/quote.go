package intel

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// TD is what a quote says.
type TD struct {
	Version    int // 4 or 5
	Body       int // of a quote of version 5: 2 for TDX 1.0, 3 for 1.5
	TEETCBSVN  [16]byte
	TEETCBSVN2 [16]byte

	MRSEAM, MRSignerSEAM, MRTD, MRConfigID, MROwner, MROwnerConfig, MRServiceTD [48]byte
	RTMR                                                                        [4][48]byte
	SEAMAttributes, Attributes, XFAM                                            [8]byte
	ReportData                                                                  [64]byte

	QE   QE
	Auth []byte // the quoting enclave's own data
	Tail []byte // after the end
	// Key attests; a new one when it is nil.
	Key *ecdsa.PrivateKey
	// Change, if it is not nil, alters header and body, and ChangeReport the enclave's report, before they are signed.
	Change, ChangeReport func([]byte)
	// Chain, if it is not nil, stands for the PCK's own.
	Chain []byte
}

// QE is the report of a quoting enclave.
type QE struct {
	MiscSelect  uint32
	Attributes  [16]byte
	MRSigner    [32]byte
	ProdID, SVN uint16
}

// NewTD is a TD of version 5 and TDX 1.5 with a module 1.5 of SVN 6, bound to data.
func NewTD(data [64]byte) TD {
	return TD{
		Version: 5, Body: 3, TEETCBSVN: [16]byte{6, 1, 2}, TEETCBSVN2: [16]byte{6, 1, 2},
		MRSEAM: [48]byte{1}, MRTD: [48]byte{2}, RTMR: [4][48]byte{{3}, {4}, {5}, {}},
		Attributes: [8]byte{3: 0x10}, XFAM: [8]byte{0xe7, 2, 6}, ReportData: data,
		QE:   QE{Attributes: [16]byte{0x15}, MRSigner: qeSigner, ProdID: 2, SVN: 4},
		Auth: slices.Repeat([]byte{0xa5}, 32),
	}
}

// Quote makes one that the platform of the PCK signs for.
func (x *Intel) Quote(pck Holder, td TD) []byte {
	key := td.Key
	if key == nil {
		key = newKey()
	}
	q := td.header()
	q = append(q, td.body()...)
	if td.Change != nil {
		td.Change(q)
	}
	public := must(key.PublicKey.Bytes())[1:]
	report := td.QE.report(public, td.Auth)
	if td.ChangeReport != nil {
		td.ChangeReport(report)
	}
	chain := td.Chain
	if chain == nil {
		chain = pck.PEM()
	}
	cert := append(append([]byte{}, report...), pck.Sign(report)...)
	cert = binary.LittleEndian.AppendUint16(cert, uint16(len(td.Auth)))
	cert = append(cert, td.Auth...)
	cert = appendSized(cert, 5, chain)

	signature := append(Holder{Key: key}.Sign(q), public...)
	signature = appendSized(signature, 6, cert)
	q = binary.LittleEndian.AppendUint32(q, uint32(len(signature)))
	q = append(q, signature...)
	return append(q, td.Tail...)
}

func appendSized(to []byte, kind uint16, b []byte) []byte {
	to = binary.LittleEndian.AppendUint16(to, kind)
	to = binary.LittleEndian.AppendUint32(to, uint32(len(b)))
	return append(to, b...)
}

func (td TD) header() []byte {
	b := make([]byte, 48)
	binary.LittleEndian.PutUint16(b, uint16(td.Version))
	binary.LittleEndian.PutUint16(b[2:], 2)
	binary.LittleEndian.PutUint32(b[4:], 0x81)
	copy(b[12:], "\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07")
	return b
}

func (td TD) body() []byte {
	b := slices.Concat(td.TEETCBSVN[:], td.MRSEAM[:], td.MRSignerSEAM[:], td.SEAMAttributes[:], td.Attributes[:], td.XFAM[:],
		td.MRTD[:], td.MRConfigID[:], td.MROwner[:], td.MROwnerConfig[:], td.RTMR[0][:], td.RTMR[1][:], td.RTMR[2][:], td.RTMR[3][:], td.ReportData[:])
	if td.Version != 5 {
		return b
	}
	if td.Body != 2 {
		b = append(append(b, td.TEETCBSVN2[:]...), td.MRServiceTD[:]...)
	}
	return appendSized(nil, uint16(td.Body), b)
}

func (qe QE) report(key, auth []byte) []byte {
	b := make([]byte, 384)
	binary.LittleEndian.PutUint32(b[16:], qe.MiscSelect)
	copy(b[48:], qe.Attributes[:])
	copy(b[128:], qe.MRSigner[:])
	binary.LittleEndian.PutUint16(b[256:], qe.ProdID)
	binary.LittleEndian.PutUint16(b[258:], qe.SVN)
	digest := sha256.Sum256(slices.Concat(key, auth))
	copy(b[320:], digest[:])
	return b
}
