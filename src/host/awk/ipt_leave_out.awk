# Follows a program that defines begin() and picked().
!rest && $0 == "=" { rest = 1; begin(); next }
!rest { given = given $0 "\n"; next }
/^\*/ { at = substr($1, 2) }
at == table && /^-A KVMFW-/ && picked() { gone = gone $0 "\n"; next }
{ print }
END { printf "=\n%s", gone }
