// Package window lets one quote answer every challenge that waits for one. Hardware makes few quotes a second, and
// some of it is a single register (Azure's NV index 0x01400002), so a challenge each would make a thousand nodes queue.
//
// A format's attester hands over how it quotes and gets back an [attest.Attester]:
//
//	func NewAttester(…) *window.Attester {
//		d := device{…}
//		return window.New(d.quote)
//	}
//
// The first challenge is quoted at once. Those that arrive meanwhile are the next window: the quote is over the Merkle
// root of their bindings ([attest.Merkle]), and each gets it with its own path. Nothing waits on purpose.
//
// [Quote] is the one place below attest.Attester that takes raw report data. So it is a function, made of a method
// that stays unexported in its package, and a test refuses any exported function below attest that quotes.
package window
