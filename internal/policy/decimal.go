package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// maxDecimal bounds a number as it is written, and its exponent.
const maxDecimal = 64

// parse reads a JSON number. What does not fit exactly is refused, never rounded: an amount that policy sees must be the
// amount that is sent.
func (d Decimal) parse() (types.Decimal, error) {
	tenThousandths, err := d.tenThousandths()
	if err != nil {
		return types.Decimal{}, fmt.Errorf("%.40q is no decimal: %w", string(d), err)
	}
	return types.NewDecimal(tenThousandths, -4)
}

func (d Decimal) tenThousandths() (int64, error) {
	if len(d) > maxDecimal {
		return 0, errors.New("too long")
	}
	mantissa, exponent, scientific := strings.Cut(strings.ToLower(string(d)), "e")
	exp := 0
	if scientific {
		var err error
		if exp, err = strconv.Atoi(exponent); err != nil || exp < -maxDecimal || exp > maxDecimal {
			return 0, errors.New("its exponent is out of range")
		}
	}
	whole, fraction, point := strings.Cut(mantissa, ".")
	whole, negative := strings.CutPrefix(whole, "-")
	digits := whole + fraction
	if whole == "" || point && fraction == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, errors.New("not a number")
	}
	digits, scale := shorten(digits, len(fraction)-exp)
	if scale > 4 {
		return 0, errors.New("more than four digits after the point")
	}
	digits += strings.Repeat("0", 4-scale)
	if negative {
		digits = "-" + digits
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, errors.New("out of range")
	}
	return n, nil
}

// shorten takes zeros off the end of digits that stand beyond the four places after the point.
func shorten(digits string, scale int) (string, int) {
	if strings.Trim(digits, "0") == "" {
		return "0", 0
	}
	for scale > 4 && strings.HasSuffix(digits, "0") {
		digits, scale = digits[:len(digits)-1], scale-1
	}
	return digits, scale
}
