import sys

from src.errors import exit_on_input_error
from src.extras.report.report import main

with exit_on_input_error():
    main(sys.argv[1:])
