from protocol.answers import CloseCode as CloseCode
from protocol.answers import Instruction as Instruction
from protocol.answers import instruction as instruction
