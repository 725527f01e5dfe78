"""The kind `service`: one supervised process, under the embedded manager with its keeper. Only this line: the keeper pays."""
